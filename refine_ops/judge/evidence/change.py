"""Effect: how much the region itself changed."""

from dataclasses import dataclass

import cv2
import numpy as np

from refine_ops.image.difference import sampled_de00, ssim_map
from refine_ops.records import Mask, U8Image


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
