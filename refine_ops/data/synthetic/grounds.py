"""What marks are printed on: crops of photos, and procedural textures. All `uint8 (h, w, 3)`."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.data.synthetic import assets
from refine_ops.records import Mask, U8Image

F64 = npt.NDArray[np.float64]


def photo_crop(library: assets.Library, size: tuple[int, int], rng: np.random.Generator) -> tuple[U8Image, Path]:
    """A random crop of a random photo, 1 to 3 times reduced, sometimes mirrored, its colours slightly shifted."""
    path = library.photos[int(rng.integers(len(library.photos)))]
    image = assets.photo(path)
    width, height = size
    most = min(image.shape[1] / width, image.shape[0] / height, 3.0)
    scale = float(np.exp(rng.uniform(np.log(min(0.8, most)), np.log(most))))
    w, h = int(width * scale), int(height * scale)
    x, y = int(rng.integers(image.shape[1] - w + 1)), int(rng.integers(image.shape[0] - h + 1))
    crop = image[y : y + h, x : x + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(crop), size, interpolation=method).astype(np.float32)
    gain, offset = rng.uniform(0.8, 1.15, 3), rng.uniform(-15, 15)
    return np.clip(resized * gain.astype(np.float32) + np.float32(offset), 0, 255).astype(np.uint8), path


def ellipse_or_box(size: tuple[int, int], centre: F64, half: F64, rng: np.random.Generator) -> Mask:
    """A region of a photo, `bool (h, w)`, of half axes `half` = (x, y)."""
    y, x = np.mgrid[: size[1], : size[0]]
    across = np.stack([np.abs(x - centre[0]) / half[0], np.abs(y - centre[1]) / half[1]])
    shape: Mask = np.hypot(*across) <= 1 if rng.random() < 0.6 else across.max(0) <= 1
    return shape


def texture(size: tuple[int, int], rng: np.random.Generator) -> U8Image:
    """A gradient under noise of a random grain: paper, plaster, cloth, brushed metal."""
    width, height = size
    ends = rng.integers(20, 236, (2, 2, 3)).astype(np.float32)
    ends[1:] = ends[:1] + rng.uniform(-40, 40, (1, 2, 3))
    base = cv2.resize(ends, size, interpolation=cv2.INTER_LINEAR)
    grain = rng.standard_normal((height, width, 1), np.float32)
    stretch = (float(rng.uniform(0.4, 3)), float(rng.uniform(0.4, 3)))
    grain = cv2.GaussianBlur(grain, (0, 0), sigmaX=stretch[0], sigmaY=stretch[1])[:, :, None]
    grain *= np.float32(rng.uniform(2, 18) / (grain.std() + 1e-6))
    return np.asarray(np.clip(base + grain, 0, 255), np.uint8)
