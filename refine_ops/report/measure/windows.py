"""Which places of an item are worth a picture."""

from refine_ops.image.region import tight_box
from refine_ops.proof.recheck import Strict
from refine_ops.records import Box
from refine_ops.report.config import MeasureSettings
from refine_ops.report.figures import RegionMeasure, Window
from refine_ops.report.measure.pair import Pair, raw_patch
from refine_ops.report.measure.pictures import SeamLine, Shown, thumbnail, window
from refine_ops.report.run_items import ReportedItem

_CONTEXT_PX = 64


def item_thumbnail(pair: Pair, settings: MeasureSettings) -> bytes:
    """A small square of the output around all regions."""
    boxes = [tight_box(mask) for mask in pair.marked.values()]
    around = (
        (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
        if boxes
        else None
    )
    return thumbnail(pair.output.rgb, around, settings.pictures.thumb_px, settings.pictures.quality)


def item_windows(
    item: ReportedItem,
    pair: Pair,
    strict: Strict,
    regions: list[RegionMeasure],
    seams: dict[str, SeamLine],
    settings: MeasureSettings,
) -> tuple[Window, ...]:
    """Stray pixels at 1:1 first, then every region, then a bad seam at 1:1; the whole image where nothing is marked."""
    look, size = settings.pictures, pair.source.size
    shown = Shown(pair.source.rgb, pair.output.rgb, pair.allowed, look.quality)
    windows = []
    if strict.where:
        windows.append(window("changed outside, 1:1", centred(strict.where, look.window_px, size), shown))
    for measured in regions:
        name = measured.region_id
        visible = measured.metrics.get("seam_de", 0.0) > settings.thresholds.seam_de
        mask, seam = pair.marked[name], seams.get(name, ()) if visible else ()
        box = item.crops.get(name) or pair.grown_box(name, _CONTEXT_PX)
        raw = raw_patch(item, next(r for r in item.regions if r.region_id == name), settings.limits)
        windows.append(window(f"region {name}", box, shown, mask=mask, raw=raw, seam=seam, longest_px=look.crop_px))
        if windows[-1].scale < 1 and seam:
            near = centred(_around(seam), look.window_px, size)
            windows.append(window(f"region {name}, worst of its seam, 1:1", near, shown, mask=mask, seam=seam))
    if not item.regions:
        windows.append(window("image", (0, 0, *size), shown, longest_px=look.crop_px))
    return tuple(windows)


def centred(box: Box, side_px: int, size: tuple[int, int]) -> Box:
    """A square of `side_px` around the centre of `box`, moved inside an image of `size` = (width, height)."""
    width, height = min(side_px, size[0]), min(side_px, size[1])
    x0 = min(max(0, (box[0] + box[2] - width) // 2), size[0] - width)
    y0 = min(max(0, (box[1] + box[3] - height) // 2), size[1] - height)
    return x0, y0, x0 + width, y0 + height


def _around(line: SeamLine) -> Box:
    xs, ys = zip(*line, strict=True)
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1
