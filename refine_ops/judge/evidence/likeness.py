"""What became of what was there: coarse shapes, colours, places, and edges that swing past both of their sides."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.image.difference import sampled_de00
from refine_ops.judge.evidence.detail import Plane
from refine_ops.records import Mask, U8Image

_COARSE_PX: Final = 6
_LEAST_SPREAD: Final = 2.0
"""Standard deviation in levels below which coarse shapes are flat: flat stays like flat."""
_STEPS: Final = 4
_MOST_PX: Final = 8.0
_EDGE_PX: Final = 2.0
_SWING_PX: Final = 2


@dataclass(frozen=True, slots=True)
class Likeness:
    """As `Evidence` has them: `structure` in [-1, 1], `colour` in CIEDE2000, `shift_px`, `overshoot` in 1/255."""

    structure: float
    colour: float
    shift_px: float
    overshoot: float


def measure_likeness(before: U8Image, after: U8Image, mask: Mask) -> Likeness:
    """Compare the pixels of `mask` (not empty) in two `uint8 (h, w, 3)` images."""
    coarse = [_coarse(image) for image in (before, after)]
    small = _coarse(mask.astype(np.uint8) * np.uint8(255)) > 0
    grey = [grey_of(image) for image in (before, after)]
    return Likeness(
        structure=_structure(grey_of(coarse[0]), grey_of(coarse[1]), small),
        colour=float(sampled_de00(coarse[0], coarse[1], small).mean()),
        shift_px=_shift(grey[0], grey[1], mask),
        overshoot=_overshoot(grey[0], grey[1], mask),
    )


def grey_of(image: U8Image) -> Plane:
    """Brightness, in levels of 255."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


def _coarse(image: U8Image) -> U8Image:
    """Means over a grid of about 6 px, lightly blurred."""
    size = (max(1, image.shape[1] // _COARSE_PX), max(1, image.shape[0] // _COARSE_PX))
    means = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(means, (3, 3), 0), np.uint8)


def _structure(before: Plane, after: Plane, mask: Mask) -> float:
    """Correlation of coarse shapes; what is flat on both sides is alike."""
    a, b = before[mask].astype(np.float64), after[mask].astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    flat = _LEAST_SPREAD**2 * len(a)
    return float((a @ b + flat) / np.sqrt((a @ a + flat) * (b @ b + flat)))


def _shift(before: Plane, after: Plane, mask: Mask) -> float:
    """Length of the shift that explains most of the change (Gauss-Newton on the mask, blurred by 2 px); at most 8."""
    one, two = (np.asarray(cv2.GaussianBlur(plane, (0, 0), _EDGE_PX), np.float32) for plane in (before, after))
    two = two + np.float32(float(one[mask].mean()) - float(two[mask].mean()))
    slopes = np.stack([cv2.Sobel(one, cv2.CV_32F, *order, scale=0.125)[mask] for order in ((1, 0), (0, 1))], 1)
    gram = (slopes.T @ slopes).astype(np.float64) + len(slopes) * 0.25 * np.eye(2)
    shift = np.zeros(2)
    for _ in range(_STEPS):
        back = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(two, back, two.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        shift += np.linalg.solve(gram, slopes.T.astype(np.float64) @ (one - seen)[mask])
    return float(min(np.hypot(*shift), _MOST_PX))


def _overshoot(before: Plane, after: Plane, mask: Mask) -> float:
    """How far pixels lie beyond the brightest and the darkest within 2 px, after beyond before: ringing and halos."""
    box = np.ones((2 * _SWING_PX + 1,) * 2, np.uint8)
    soft = cv2.GaussianBlur(after, (0, 0), 1.0)
    over = np.maximum(after - cv2.dilate(before, box), 0) + np.maximum(cv2.erode(before, box) - after, 0)
    swing = np.abs(after - soft)
    return float(np.sqrt((over * swing)[mask].mean()))
