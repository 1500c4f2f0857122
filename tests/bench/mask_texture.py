"""Which greys the mask rule takes for a photo's texture: crops of photos on black or white, and soft dots.

    python -m tests.bench.mask_texture [--count 1500]

Crops of 24 to 150 px of scikit-image's photos should be refused, dots should not.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np
from skimage import data

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.mask import decode_mask
from tests.support.made_files import png

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "page", "text", "clock", "brick")
PHOTOS += ("grass", "gravel", "immunohistochemistry", "hubble_deep_field", "retina", "cell")


def crop_on_plain_ground(rng: np.random.Generator) -> np.ndarray:
    """`uint8 (s, s)`: a square of a photo on black or white."""
    photo = getattr(data, PHOTOS[rng.integers(len(PHOTOS))])()
    grey = cv2.cvtColor(np.ascontiguousarray(photo[..., :3]), cv2.COLOR_RGB2GRAY) if photo.ndim == 3 else photo
    side = int(rng.integers(24, 150))
    y, x = rng.integers(0, grey.shape[0] - side), rng.integers(0, grey.shape[1] - side)
    whole = int(side * rng.uniform(1.5, 3))
    ground = np.full((whole, whole), rng.choice([0, 255]), np.uint8)
    at = (whole - side) // 2
    ground[at : at + side, at : at + side] = grey[y : y + side, x : x + side]
    return ground


def dots(rng: np.random.Generator) -> np.ndarray:
    """`uint8 (h, w)`: Gaussian dots on black, or the same inverted."""
    height, width, most = (64, 80, 4) if rng.random() < 0.5 else (256, 320, 40)
    ys, xs = np.mgrid[:height, :width]
    level = np.zeros((height, width))
    for _ in range(rng.integers(1, most)):
        distance = np.hypot(xs - rng.uniform(0, width), ys - rng.uniform(0, height))
        level = np.maximum(level, rng.uniform(0.6, 1) * np.exp(-(distance**2) / 2 / rng.uniform(1, 12) ** 2))
    return np.rint((1 - level if rng.random() < 0.5 else level) * 255).astype(np.uint8)


def reading(level: np.ndarray) -> str:
    try:
        decode_mask(png(level[..., None]), name="m", size=level.shape[::-1], limits=ImageLimits())
    except ItemError as error:
        return "texture" if "texture" in str(error) else "refused otherwise"
    return "a mask"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1500)
    count = parser.parse_args().count
    makers: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (crop_on_plain_ground, dots)
    for make in makers:
        rng = np.random.default_rng(1)
        print(f"{make.__name__}: {dict(Counter(reading(make(rng)) for _ in range(count)))}")


if __name__ == "__main__":
    main()
