"""Photos with a printed sign or label, damaged or clean: what discovery of damaged text is fitted on and measured with.

A sign is a word or a number in one of the bundled fonts, printed in mild perspective on a photo under a gradient of
light with noise. Every second one is damaged as a whole by one family of `data.stages.damages`, at a strength of 0.3 to
1. `train` and `heldout` share no font and no photo.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from refine_ops.data.stages.damages import DAMAGES
from refine_ops.data.synthetic import assets, grounds, marks
from refine_ops.data.synthetic.render import _place, _print
from refine_ops.image.paste import blend_mask, paste_back
from refine_ops.records import Box, U8Image

SIZE_PX: Final = (512, 384)
KINDS: Final = (
    *("defocus_blur", "motion_blur", "down_up_sampling", "local_warp"),
    *("stroke_erasure", "jpeg_artefacts", "ghosting", "noise"),
)


@dataclass(frozen=True, eq=False)
class Sign:
    """`image` shows the sign at `box`; `damage` names what was done to it, or is empty."""

    number: int
    image: U8Image
    box: Box
    damage: str
    strength: float


@lru_cache(maxsize=2)
def _library(side: assets.Side) -> assets.Library:
    return assets.library(side)


def sign(number: int, side: assets.Side) -> Sign:
    """Sign `number` of a side; the same arguments give the same pixels. Odd ones are damaged."""
    rng = np.random.default_rng((31, number, side == "heldout"))
    library = _library(side)
    ground = grounds.photo_crop(library, SIZE_PX, rng)[0]
    sprite, _ = (marks.text if rng.random() < 0.6 else marks.numbers)(library, rng)
    sprite = _on_paper(sprite, rng)
    quad = _place(sprite, SIZE_PX, rng)
    # Never enlarged: what was soft before it was damaged could not be told from what was damaged.
    middle, across = quad.mean(axis=0), float(np.linalg.norm(quad[1] - quad[0]))
    quad = middle + (quad - middle) * min(1.0, sprite.shape[1] / across) * rng.uniform(0.5, 1.0)
    image, shape = _print(sprite, quad, ground, rng)
    closed = cv2.dilate(shape.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    x, y, width, height = cv2.boundingRect(shape.astype(np.uint8))
    if number % 2 == 0:
        return Sign(number, image, (x, y, x + width, y + height), "", 0.0)
    kind, strength = KINDS[number // 2 % len(KINDS)], float(rng.uniform(0.3, 1))
    hull = np.zeros(shape.shape, np.uint8)
    cv2.fillConvexPoly(hull, np.rint(quad).astype(np.int32), 1)
    mask = (hull > 0) | closed
    damaged = paste_back(image, DAMAGES[kind](image, mask, strength, rng), blend_mask(mask))
    return Sign(number, damaged, (x, y, x + width, y + height), kind, strength)


def _on_paper(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sprite on paper of its own: letters that hang in the air are no sign."""
    alpha = sprite[..., 3:].astype(np.float32) / 255
    if alpha.mean() > 0.7:
        return sprite
    ink = float(sprite[..., :3][sprite[..., 3] > 128].mean())
    paper = rng.integers(0, 60, 3) if ink > 128 else rng.integers(200, 256, 3)
    shown = np.rint(sprite[..., :3] * alpha + paper * (1 - alpha)).astype(np.uint8)
    return np.dstack([shown, np.full(shown.shape[:2], 255, np.uint8)])
