"""Samples as a file stores them, before any colour or orientation is applied."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError

Format = Literal["jpeg", "png", "webp", "tiff", "bmp", "gif", "avif", "heic", "jpeg2000"]
SUFFIXES: Final[dict[Format, tuple[str, ...]]] = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
    "bmp": (".bmp",),
    "gif": (".gif",),
    "avif": (".avif",),
    "heic": (".heic", ".heif"),
    "jpeg2000": (".jp2", ".j2k"),
}
"""How names of each format end, the usual one first."""
EDITED: Final[tuple[Format, ...]] = ("jpeg", "png", "webp", "tiff")
"""What is edited in place; the others become PNG or lossless WebP where that is asked for."""
IMAGE_SUFFIXES: Final = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
"""Only to tell pictures from other files by name; what a file is, its first bytes say."""
F32 = npt.NDArray[np.float32]
Model = Literal["grey", "rgb", "cmyk"]
Samples = npt.NDArray[Any]
"""`uint8` or `uint16 (H, W, C)`, C = colour channels (grey 1, rgb 3, cmyk 4) plus one for straight alpha."""


@dataclass(frozen=True, slots=True, eq=False)
class Native:
    """What the file holds: samples as stored (EXIF orientation not applied), in the file's own profile and depth.

    CMYK counts ink: 0 is none. Palette images are expanded to RGB(A). `icc` is the embedded profile's bytes.
    `expanded` marks grey of 1, 2 or 4 bits shown as 8: good for masks and references, not for editing.
    """

    samples: Samples
    model: Model
    alpha: bool = False
    orientation: int = 1
    icc: bytes | None = None
    expanded: bool = False

    @property
    def bits(self) -> int:
        return self.samples.dtype.itemsize * 8


def with_channels(samples: npt.NDArray[Any]) -> Samples:
    """`(H, W)` or `(H, W, C)` as `(H, W, C)`."""
    return samples if samples.ndim == 3 else samples[:, :, None]


def rgb_order(samples: npt.NDArray[Any]) -> Samples:
    """OpenCV's grey, BGR or BGRA as `(H, W, C)` in the order grey, RGB or RGBA, or back."""
    samples = with_channels(samples)
    return samples[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[samples.shape[2]]]


def expand_grey(samples: Samples) -> Samples:
    """Grey, with or without alpha, as RGB(A)."""
    return samples[..., [0, 0, 0, 1][: samples.shape[2] + 2]]


def check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    """Before any library allocates for the size a header claims.

    Raises:
        ItemError: `image.too_large`.
    """
    if width * height > limits.max_pixels:
        raise ItemError("image.too_large", f"{name}: {width} x {height} is over max_pixels {limits.max_pixels:,}")
