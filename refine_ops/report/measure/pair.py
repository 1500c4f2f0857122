"""Both images of an item, decoded, and where change was allowed between them."""

from dataclasses import dataclass

import cv2

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.image.read import decode
from refine_ops.image.region import paste_mask, region_mask, tight_box
from refine_ops.image.source import Source
from refine_ops.proof.allowed import allowed_change
from refine_ops.records import Box, Mask, Region, U8Image
from refine_ops.report.figures import Finding
from refine_ops.report.run_items import ReportedItem


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """`marked` is each region's paste mask, `bool (H, W)`, by region id; `allowed` the allowed change, `bool (H, W)`;
    `findings` what already went wrong on the way (a file that is not the one the run recorded)."""

    source: Source
    output: Source
    marked: dict[str, Mask]
    allowed: Mask
    reach_px: int
    findings: tuple[Finding, ...]

    @property
    def comparable(self) -> bool:
        """Equal sizes: without them there is no 'same place'."""
        return self.source.size == self.output.size

    def grown_box(self, region_id: str, by_px: int) -> Box:
        """The region's tight box with `by_px` on every side, inside the image."""
        return grown(tight_box(self.marked[region_id]), by_px, self.source.size)


def open_pair(item: ReportedItem, limits: ImageLimits) -> Pair:
    """Raises: ItemError -- a file or a region's mask cannot be read."""
    data = [storage.read(uri, limits.max_bytes) for uri in (item.image, item.output)]
    findings = []
    for what, recorded, got in zip(("source", "output"), (item.source_sha256, item.output_sha256), data, strict=True):
        if recorded and storage.sha256(got) != recorded:
            text = f"the {what} is not the file the run recorded (SHA-256 differs): it was replaced since"
            findings.append(Finding("strict.bytes", 1, 0, text))
    source, output = (
        decode(d, name=uri, limits=limits) for d, uri in zip(data, (item.image, item.output), strict=True)
    )
    masks: dict[str, Mask] = {}
    for region in item.regions:
        mask_bytes = storage.read(region.mask, limits.max_bytes) if region.mask else None
        masks[region.region_id] = region_mask(region, source.size, mask_bytes, limits)
    marked = {r.region_id: paste_mask(masks[r.region_id], r.paste) for r in item.regions}
    regions = ((masks[r.region_id], r.paste) for r in item.regions)
    allowed = allowed_change(regions, source.size, data[0], data[1], item.rules).where
    return Pair(source, output, marked, allowed, item.rules.paste.reach_px, tuple(findings))


def raw_patch(item: ReportedItem, region: Region, limits: ImageLimits) -> U8Image | None:
    """The kept raw patch, `uint8 (h, w, 3)` at the size of its crop (it is kept at the model's resolution); None where
    none was kept, or one that was padded."""
    uri = item.patches.get(region.region_id)
    if uri is None or region.region_id not in item.crops or not storage.exists(uri):
        return None
    x0, y0, x1, y1 = item.crops[region.region_id]
    patch = decode(storage.read(uri, limits.max_bytes), name=uri, limits=limits).rgb
    if abs(patch.shape[1] * (y1 - y0) - patch.shape[0] * (x1 - x0)) > max(patch.shape):
        return None
    shrinks = patch.shape[1] > x1 - x0
    resized: U8Image = cv2.resize(
        patch, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return resized


def grown(box: Box, by_px: int, size: tuple[int, int]) -> Box:
    """`box` with `by_px` on every side, clipped to an image of `size` = (width, height)."""
    x0, y0, x1, y1 = box
    return max(0, x0 - by_px), max(0, y0 - by_px), min(size[0], x1 + by_px), min(size[1], y1 + by_px)
