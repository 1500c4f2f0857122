"""Effect: how much the region itself changed, and whether several candidates changed the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.image.difference import sampled_de00, ssim_map
from refine_ops.image.formats.native import F32
from refine_ops.records import Mask, U8Image

_THUMBNAIL_PX: Final = 96


@dataclass(frozen=True, slots=True)
class Effect:
    """`levels`: mean absolute difference in 1/255; `de00`: mean CIEDE2000; `ssim`: mean SSIM of windows centred in the
    region."""

    levels: float
    de00: float
    ssim: float


def measure_effect(before: U8Image, after: U8Image, region: Mask) -> Effect:
    """Compare the pixels of `region` (`bool (H, W)`, not empty) in two `uint8 (H, W, 3)` images."""
    difference = cv2.absdiff(before, after)
    grey_before = cv2.cvtColor(before, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey_after = cv2.cvtColor(after, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = np.ascontiguousarray(region).view(np.uint8)
    return Effect(
        levels=sum(cv2.mean(difference, inside)[:3]) / 3,
        de00=float(sampled_de00(before, after, region).mean()),
        ssim=cv2.mean(ssim_map(grey_before, grey_after), inside)[0],
    )


def change_thumbnail(before: U8Image, after: U8Image, region: Mask) -> F32:
    """What changed in `region` (`bool (h, w)`, not empty): grey after minus before, 0 outside, `float32`, the region's
    box at most 96 px long."""
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
    near = np.s_[y : y + height, x : x + width]
    grey = [
        cv2.cvtColor(np.ascontiguousarray(im[near]), cv2.COLOR_RGB2GRAY).astype(np.float32) for im in (after, before)
    ]
    change = (grey[0] - grey[1]) * region[near]
    scale = min(1.0, _THUMBNAIL_PX / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(change, size, interpolation=cv2.INTER_AREA), np.float32)


def agreement_of(change: F32, others: Sequence[F32]) -> float | None:
    """Mean correlation of a change with the other candidates' (`change_thumbnail`), in [-1, 1]; None without others, or
    where one of them changed nothing. What a model is sure of it makes again with another seed; what it invents differs
    each time."""
    if not others or any(float(one.std()) == 0.0 for one in (change, *others)):
        return None
    return float(np.mean([np.corrcoef(change.ravel(), other.ravel())[0, 1] for other in others]))
