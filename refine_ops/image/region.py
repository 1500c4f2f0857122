"""A region's marking as a mask: a box, a mask file or a scribble."""

import itertools
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.mask import decode_mask
from refine_ops.records import Mask, MaskReading, PastePolicy, Region, Scribble

_MAX_COORDINATE: Final = 1 << 20
_MIN_RADIUS_PX: Final = 0.7072
_PIECE_PX: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """A mask as it waits for its turn: one bit per pixel of its tight box, as an item may have 256 of them."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, mask: Mask) -> "PackedMask":
        """Pack `bool (H, W)`, not empty."""
        x0, y0, x1, y1 = tight_box(mask)
        return cls((mask.shape[1], mask.shape[0]), (x0, y0, x1, y1), np.packbits(mask[y0:y1, x0:x1], axis=1))

    def unpacked(self) -> Mask:
        """The mask, `bool (H, W)`."""
        (width, height), (x0, y0, x1, y1) = self.size, self.box
        mask = np.zeros((height, width), np.bool_)
        mask[y0:y1, x0:x1] = np.unpackbits(self.bits, axis=1, count=x1 - x0)
        return mask


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
        reading = MaskReading(region.mask_level, region.mask_class, region.mask_invert)
        return decode_mask(mask_bytes, name=region.mask, size=size, limits=limits, reading=reading)
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
    """Strokes with round caps and joints: pixels whose centre lies within half the width of the line.

    Half the width counts as 0.71 px at least, so that the thinnest stroke is connected and marks a pixel per point.
    OpenCV's polylines would draw it 1 to 2 px wider than asked.
    """
    width, height = size
    points = [p for stroke in scribble.strokes for p in stroke]
    if not points or not all(math.isfinite(v) and abs(v) < _MAX_COORDINATE for p in points for v in p):
        raise ItemError("scribble.outside", f"region {name}: the scribble needs finite points inside the image")
    canvas = np.zeros((height, width), np.bool_)
    radius = max(scribble.width_px / 2, _MIN_RADIUS_PX)
    for stroke in scribble.strokes:
        for start, stop in zip(stroke, [*stroke[1:], stroke[-1]], strict=True):
            _draw_segment(canvas, start, stop, radius)
    if not canvas.any():
        raise ItemError("scribble.outside", f"region {name}: no stroke touches the {width} x {height} image")
    return canvas


def _draw_segment(canvas: Mask, start: tuple[float, float], stop: tuple[float, float], radius: float) -> None:
    """In short pieces, so that a long diagonal costs its length and not its bounding box."""
    pieces = max(1, math.ceil(math.dist(start, stop) / _PIECE_PX))
    stops = np.linspace(start, stop, pieces + 1)
    for (ax, ay), (bx, by) in itertools.pairwise(stops):
        x0, x1 = max(0, math.floor(min(ax, bx) - radius)), min(canvas.shape[1], math.ceil(max(ax, bx) + radius))
        y0, y1 = max(0, math.floor(min(ay, by) - radius)), min(canvas.shape[0], math.ceil(max(ay, by) + radius))
        if x0 >= x1 or y0 >= y1:
            continue
        dx, dy = np.arange(x0, x1) + 0.5 - ax, np.arange(y0, y1)[:, None] + 0.5 - ay
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        along = np.clip((dx * (bx - ax) + dy * (by - ay)) / length, 0, 1)
        distance = (dx - along * (bx - ax)) ** 2 + (dy - along * (by - ay)) ** 2
        canvas[y0:y1, x0:x1] |= distance <= radius**2
