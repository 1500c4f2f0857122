"""Has what the registered reference shows arrived, and nothing that neither of the two shows?

Pictures are compared without their coarse tone (finer than 6 px), as a reference's light is never quite the photo's.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.judge.evidence.detail import Plane
from refine_ops.judge.evidence.likeness import grey_of
from refine_ops.records import Mask, U8Image

_FINE_PX: Final = 0.7
_TONE_PX: Final = 6.0
_WINDOW_PX: Final = 13
_SHOWN: Final = 3.0
"""Standard deviation in a window, in levels, from which on the reference shows something there."""
_LEAST_PIXELS: Final = 64


@dataclass(frozen=True, slots=True)
class Referred:
    """As `Evidence` has them: correlations in [-1, 1], shares in [0, 1]."""

    before: float
    after: float
    arrived: float
    invented: float


def measure_reference(
    before: U8Image, after: U8Image, mask: Mask, reference: U8Image, covered: Mask | None
) -> Referred | None:
    """None where the reference covers too little of the mask, or is flat there."""
    part = mask if covered is None else mask & covered
    old, new, shown = (_plain(image) for image in (before, after, reference))
    telling = part & (_spread(shown) > _SHOWN)
    if np.count_nonzero(telling) < _LEAST_PIXELS:
        return None
    wanted, made = (shown - old)[part].astype(np.float64), (new - old)[part].astype(np.float64)
    floor = float(len(wanted))  # one level: less is nothing wanted, and nothing made
    taken = float(np.clip((made @ wanted) / (wanted @ wanted + floor), 0, 1))
    rest = made - taken * wanted
    return Referred(
        before=_alike(old, shown, telling),
        after=_alike(new, shown, telling),
        arrived=taken,
        invented=float(np.clip((rest @ rest) / (made @ made + floor), 0, 1)),
    )


def _plain(image: U8Image) -> Plane:
    grey = grey_of(image)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), _FINE_PX) - cv2.GaussianBlur(grey, (0, 0), _TONE_PX), np.float32)


def _spread(plane: Plane) -> Plane:
    box = (_WINDOW_PX, _WINDOW_PX)
    return np.asarray(np.sqrt(np.maximum(cv2.blur(plane * plane, box) - cv2.blur(plane, box) ** 2, 0)), np.float32)


def _alike(one: Plane, other: Plane, part: Mask) -> float:
    """Mean correlation of windows."""
    box = (_WINDOW_PX, _WINDOW_PX)
    mean_a, mean_b = cv2.blur(one, box), cv2.blur(other, box)
    both = cv2.blur(one * other, box) - mean_a * mean_b
    own = np.sqrt(
        np.maximum(cv2.blur(one * one, box) - mean_a**2, 1) * np.maximum(cv2.blur(other * other, box) - mean_b**2, 1)
    )
    return float((both / own)[part].mean())
