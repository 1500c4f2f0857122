"""Photos with logos printed on them: what `like` is fitted on and measured with.

A brand has eight flat logos and icons of 128 px on transparent ground. A composite is a photo of 640 x 480 px on which
one or two of them are printed at a scale of 0.3 to 2, turned by up to 30 degrees, in mild perspective, under a gradient
of light with noise; every second one is blurred. The others are not there, and are false alarms where they are found.
`train` and `heldout` share no font and no photo.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from refine_ops.data.synthetic import assets, grounds, marks
from refine_ops.data.synthetic.render import _print
from refine_ops.records import U8Image

SIZE_PX: Final = (640, 480)
BRAND: Final = 8


@dataclass(frozen=True, eq=False)
class Printed:
    """One logo of the brand on a composite: number, corners `(4, 2)`, scale, turn (degrees) and blur (sigma, px)."""

    logo: int
    quad: np.ndarray
    scale: float
    turn: float
    blur_px: float


@lru_cache(maxsize=2)
def _library(side: assets.Side) -> assets.Library:
    return assets.library(side)


def brand(number: int, side: assets.Side) -> list[U8Image]:
    """The eight logos of a brand, RGBA `uint8 (H, W, 4)`."""
    rng = np.random.default_rng((41, number, side == "heldout"))
    made: list[U8Image] = []
    while len(made) < BRAND:
        sprite, _ = (marks.logo if rng.random() < 0.6 else marks.icon)(_library(side), rng)
        x, y, width, height = cv2.boundingRect((sprite[..., 3] > 0).astype(np.uint8))
        sprite = np.ascontiguousarray(sprite[y : y + height, x : x + width])
        factor = 128 / max(sprite.shape[:2])
        made.append(np.asarray(cv2.resize(sprite, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8))
    return made


def composite(number: int, side: assets.Side, logos: list[U8Image]) -> tuple[U8Image, list[Printed]]:
    """Composite `number`: the photo, and what is printed on it. The same arguments give the same pixels."""
    rng = np.random.default_rng((43, number, side == "heldout"))
    image = grounds.photo_crop(_library(side), SIZE_PX, rng)[0]
    printed: list[Printed] = []
    for logo in rng.permutation(BRAND)[: 1 + int(rng.random() < 0.4)].tolist():
        sprite = logos[logo]
        scale, turn = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0)))), float(rng.uniform(-30, 30))
        half = np.array(sprite.shape[1::-1]) * scale / 2
        flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        angle = np.deg2rad(turn)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = flat @ rotation.T + rng.uniform(-0.06, 0.06, (4, 2)) * half.mean()
        reach = np.abs(corners).max(axis=0) + 4
        middle = rng.uniform(reach, np.array(SIZE_PX) - reach)
        quad = middle + corners
        if any(np.linalg.norm(quad.mean(axis=0) - p.quad.mean(axis=0)) < np.abs(corners).max() * 3 for p in printed):
            continue
        again, shape = _print(sprite, quad, image, rng)
        blur = float(rng.uniform(0.8, 3.0)) if number % 2 else 0.0
        if blur:
            mask = cv2.dilate(shape.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(np.float32)
            mask = cv2.GaussianBlur(mask, (0, 0), 2.0)[..., None]
            again = np.rint(again * (1 - mask) + cv2.GaussianBlur(again, (0, 0), blur) * mask).astype(np.uint8)
        image = again
        printed.append(Printed(logo, quad, scale, turn, blur))
    return image, printed
