"""Regions that are worse on purpose, eight ways: what a gate is taught to hold, and tested with.

Each takes a crop `uint8 (h, w, 3)`, the marked pixels `bool (h, w)`, and a generator, and returns the crop as a bad
refinement would leave it, pasted back lightly as all are. Strengths run from what a customer sees at once upwards.
"""

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np

from refine_ops.data.stages.damages import local_warp
from refine_ops.image.paste import blend_mask, paste_back
from refine_ops.records import Mask, U8Image

Harm = Callable[[U8Image, Mask, U8Image, np.random.Generator], U8Image]
"""From the crop, its mask, another picture (a wrong reference) and a generator."""


def blurred(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """Gaussian, sigma 1.5 to 4 px."""
    return _u8(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.5, 4.0))))


def smeared(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """A median of 7 to 13 px: shapes stay, details run together."""
    return _u8(cv2.medianBlur(image, 2 * int(rng.integers(3, 7)) + 1))


def wrong_reference(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """Another picture in its place, in the tone of this one."""
    pasted = cv2.resize(other, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32)
    return _u8(pasted + (image[mask].mean(0) - pasted[mask].mean(0)).astype(np.float32))


def garbled(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """Smooth random displacement of up to 3 to 5 px: letters melt."""
    return local_warp(image, mask, float(rng.uniform(0.4, 1.0)), rng)


def shifted(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """3 to 8 px off in any direction."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(3, 8)
    matrix = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]], np.float32)
    return _u8(cv2.warpAffine(image, matrix, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REFLECT_101))


def recoloured(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """Another hue: 15 to 35 off in Lab's colour plane."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(15, 35)
    lab[..., 1:] += np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(distance)
    return _u8(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255)


def oversharpened(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """An unsharp mask of 1 to 2 px, 2 to 4 times over."""
    plain = image.astype(np.float32)
    soft = cv2.GaussianBlur(plain, (0, 0), float(rng.uniform(1, 2)))
    return _u8(plain + np.float32(rng.uniform(2, 4)) * (plain - soft))


def noisy(image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """Grain of standard deviation 10 to 25 levels."""
    grain = cv2.GaussianBlur(rng.standard_normal(image.shape, np.float32), (0, 0), 0.6)
    return _u8(image + grain / grain.std() * np.float32(rng.uniform(10, 25)))


HARMS: Final[Mapping[str, Harm]] = {
    "blurred": blurred,
    "smeared": smeared,
    "wrong reference pasted": wrong_reference,
    "text garbled": garbled,
    "shifted": shifted,
    "recoloured": recoloured,
    "over-sharpened": oversharpened,
    "noise added": noisy,
}


def plant(kind: str, image: U8Image, mask: Mask, other: U8Image, rng: np.random.Generator) -> U8Image:
    """The crop with one harm pasted into its mask."""
    return pasted(image, HARMS[kind](image, mask, other, rng), mask)


def pasted(image: U8Image, patch: U8Image, mask: Mask) -> U8Image:
    """The patch where the mask is, blended as a run does (Eq. 8-9)."""
    return paste_back(image, patch, blend_mask(mask))


def _u8(values: cv2.typing.MatLike) -> U8Image:
    return np.asarray(np.rint(np.clip(np.asarray(values), 0, 255)), np.uint8)
