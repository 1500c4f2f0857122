"""A region's marking as a mask: a box, a mask file or a scribble."""

import math

import cv2
import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.read import decode_mask
from refine_ops.records import Mask, PastePolicy, Region, Scribble

_SUBPIXEL_BITS = 4
_MAX_COORDINATE = 1 << 20


def region_mask(region: Region, size: tuple[int, int], mask_bytes: bytes | None, limits: ImageLimits) -> Mask:
    """M, `bool (H, W)`, of one region on an upright image of `size` = (width, height); never empty.

    Args:
        mask_bytes: The mask file's bytes where `region.mask` is set.

    Raises:
        ItemError: `box.inverted`, `box.outside`, `scribble.outside`, `mask.*`, `region.unmarked`.
    """
    width, height = size
    if region.box is not None:
        x0, y0, x1, y1 = _checked_box(region.box, size, region.region_id)
        mask = np.zeros((height, width), np.bool_)
        mask[y0:y1, x0:x1] = True
        return mask
    if region.scribble is not None:
        return _drawn(region.scribble, size, region.region_id)
    if region.mask is not None and mask_bytes is not None:
        return decode_mask(mask_bytes, name=region.mask, size=size, limits=limits)
    raise ItemError("region.unmarked", f"region {region.region_id}: give a box, a mask or a scribble")


def paste_mask(mask: Mask, policy: PastePolicy) -> Mask:
    """Where the result is pasted: the marked pixels, or with policy 'box' the whole of their tight box."""
    if policy == "mask":
        return mask
    x0, y0, x1, y1 = tight_box(mask)
    filled = np.zeros_like(mask)
    filled[y0:y1, x0:x1] = True
    return filled


def tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """B = BBox(M), Eq. (3), half-open.

    Raises:
        ItemError: `mask.empty`.
    """
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        raise ItemError("mask.empty", "nothing is marked; mark at least one pixel")
    return x, y, x + width, y + height


def _checked_box(box: tuple[int, int, int, int], size: tuple[int, int], name: str) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise ItemError("box.inverted", f"region {name}: box {box} needs x0 < x1 and y0 < y1 (half-open pixels)")
    if x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]:
        raise ItemError("box.outside", f"region {name}: box {box} leaves the {size[0]} x {size[1]} image; clip it")
    return box


def _drawn(scribble: Scribble, size: tuple[int, int], name: str) -> Mask:
    """Strokes with round caps and joints; a stroke thinner than a pixel still marks the pixels it crosses."""
    width, height = size
    points = [p for stroke in scribble.strokes for p in stroke]
    if not points or not all(math.isfinite(v) and abs(v) < _MAX_COORDINATE for p in points for v in p):
        raise ItemError("scribble.outside", f"region {name}: the scribble needs finite points inside the image")
    thickness = max(1, round(min(scribble.width_px, 2 * max(size))))
    canvas = np.zeros((height, width), np.uint8)
    for stroke in scribble.strokes:
        # Pixel centres are at half-integers here and at integers in OpenCV.
        fixed = np.rint((np.array(stroke, np.float64) - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for point in fixed:
            _dot(canvas, point, thickness)
        cv2.polylines(canvas, [fixed], False, 255, thickness, cv2.LINE_8, _SUBPIXEL_BITS)
    if not canvas.any():
        raise ItemError("scribble.outside", f"region {name}: no stroke touches the {width} x {height} image")
    return canvas.view(np.bool_) if canvas.max() == 1 else canvas > 0


def _dot(canvas: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", point: np.ndarray, thickness: int) -> None:
    x, y = (int(v) for v in point)
    radius = thickness * (1 << _SUBPIXEL_BITS) // 2
    if thickness > 1:
        cv2.circle(canvas, (x, y), radius, 255, cv2.FILLED, cv2.LINE_8, _SUBPIXEL_BITS)
        return
    column, row = (round(v / (1 << _SUBPIXEL_BITS)) for v in (x, y))
    if 0 <= column < canvas.shape[1] and 0 <= row < canvas.shape[0]:
        canvas[row, column] = 255
