"""All evidence of one region, from its pixels before and after."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from refine_ops.image.patch.tiles import within
from refine_ops.image.place import Place
from refine_ops.judge.evidence.detail import measure_detail
from refine_ops.judge.evidence.likeness import grey_of, measure_likeness
from refine_ops.judge.evidence.reference import measure_reference
from refine_ops.judge.evidence.seam import measure_seam
from refine_ops.judge.evidence.text import Reader, measure_text
from refine_ops.records import Alignment, Conditioning, Evidence, FocusCrop, Mask, U8Image

_AROUND_PX: Final = 32


def measure(
    before: U8Image,
    after: U8Image,
    mask: Mask,
    *,
    reach_px: int,
    zoom: float | None = None,
    reference: U8Image | None = None,
    covered: Mask | None = None,
    alignment: Alignment | None = None,
    prompt: str = "",
    reader: Reader | None = None,
    finite: bool = True,
) -> Evidence:
    """Compare a region's focus crop before and after, both as they lie in the image.

    Args:
        before, after: the crop at native resolution, `uint8 (h, w, 3)`.
        mask: what is pasted, `bool (h, w)`, not empty.
        reach_px: how far past `mask` the blend reaches.
        zoom: model pixels per native pixel.
        reference: the registered reference in the crop's frame, `uint8 (h, w, 3)` (`native_reference`).
        covered: where it reaches, `bool (h, w)`; everywhere if None.
        alignment: what `align` estimated.
        prompt: what was asked for; text in quotation marks is looked for.
        reader: reads text; without one that is not measured.
        finite: whether every value of the patch is a number.
    """
    near = _near(mask)
    before, after = np.ascontiguousarray(before[near]), np.ascontiguousarray(after[near])
    mask, covered = np.ascontiguousarray(mask[near]), None if covered is None else covered[near]
    reference = None if reference is None else np.ascontiguousarray(reference[near])
    detail = measure_detail(grey_of(before), grey_of(after), mask)
    likeness = measure_likeness(before, after, mask)
    seam = measure_seam(before, after, mask, reach_px)
    referred = None if reference is None else measure_reference(before, after, mask, reference, covered)
    text = None if reader is None else measure_text(before, after, mask, reader, prompt, reference)
    moved = alignment if alignment is not None and alignment.measured else None
    return Evidence(
        finite=finite,
        change=sum(cv2.mean(cv2.absdiff(before, after), mask.astype(np.uint8))[:3]) / 3,
        zoom=zoom,
        detail_lost=detail.lost,
        detail_gained=detail.gained,
        detail_kept=detail.kept,
        detail_around=detail.around,
        sharpness_before=detail.sharpness_before,
        sharpness_after=detail.sharpness_after,
        sharpness_around=detail.sharpness_around,
        explained=detail.explained,
        overshoot=likeness.overshoot,
        grain=detail.grain,
        structure=likeness.structure,
        colour=likeness.colour,
        shift_px=likeness.shift_px,
        reference_before=referred.before if referred else None,
        reference_after=referred.after if referred else None,
        reference_arrived=referred.arrived if referred else None,
        reference_invented=referred.invented if referred else None,
        text_before=text[0] if text else None,
        text_after=text[1] if text else None,
        drift_px=moved.shift_px if moved else None,
        drift_de00=moved.de00_before if moved else None,
        seam=seam.de if seam else None,
    )


def _near(mask: Mask) -> tuple[slice, slice]:
    """The mask's box and the surroundings that evidence looks at: a crop's margin may be far wider."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    rows = slice(max(0, y - _AROUND_PX), y + height + _AROUND_PX)
    return rows, slice(max(0, x - _AROUND_PX), x + width + _AROUND_PX)


def zoom_of(crop: FocusCrop) -> float:
    """Model pixels per native pixel along one side."""
    left, _, right, _ = crop.pad
    return crop.size[0] / (crop.crop[2] - crop.crop[0] + left + right)


def native_reference(given: Conditioning, crop: FocusCrop) -> tuple[U8Image, Mask] | None:
    """The registered reference and where it reaches, taken from the view back to the crop at native resolution; None
    where there is none, or it is not registered."""
    if given.reference is None or given.covered is None:
        return None
    x0, y0, x1, y1 = crop.crop
    left, top, right, bottom = crop.pad
    width, height = x1 - x0, y1 - y0
    padded = (width + left + right, height + top + bottom)
    inside = np.s_[top : top + height, left : left + width]
    how = cv2.INTER_AREA if zoom_of(crop) > 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(given.reference, padded, interpolation=how)[inside]
    covered = cv2.resize(given.covered.astype(np.uint8), padded, interpolation=cv2.INTER_NEAREST)[inside]
    return np.ascontiguousarray(pixels, np.uint8), covered > 0


def region_reference(given: Sequence[Conditioning], place: Place) -> tuple[U8Image, Mask] | None:
    """`native_reference` of a whole region, on its crop: put together from its tiles, the last of them uppermost.

    Args:
        given: What the model was given of each tile, in turn.
    """
    if len(given) == 1:
        return native_reference(given[0], place.tiles[0].crop)
    x0, y0, x1, y1 = place.crop.crop
    pixels, covered = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.zeros((y1 - y0, x1 - x0), np.bool_)
    for one, tile in zip(given, place.tiles, strict=True):
        found = native_reference(one, tile.crop)
        if found is None:
            return None
        on_region, on_tile = (within(tile.window, box) for box in (place.crop.crop, tile.crop.crop))
        pixels[on_region], covered[on_region] = found[0][on_tile], found[1][on_tile]
    return pixels, covered
