"""A decoded image beside the bytes it came from, and the one place that knows EXIF orientation."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.records import U8Image

Format = Literal["jpeg", "png", "webp", "tiff"]
F32 = npt.NDArray[np.float32]
Model = Literal["grey", "rgb", "cmyk"]
Samples = npt.NDArray[Any]
"""`uint8` or `uint16 (H, W, C)`, C = colour channels (grey 1, rgb 3, cmyk 4) plus one for straight alpha."""

MEDIA_SUFFIX: Final[dict[Format, str]] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}


@dataclass(frozen=True, slots=True, eq=False)
class Native:
    """What the file holds: samples as stored (EXIF orientation not applied), in the file's own profile and depth.

    CMYK counts ink: 0 is none. Palette images are expanded to RGB(A). `icc` is the embedded profile's bytes.
    `expanded` marks grey of 1, 2 or 4 bits shown as 8: good for masks, not for editing.
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


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One image file, decoded.

    `rgb` is `uint8 (H, W, 3)`, upright, converted to sRGB and composited over `matte`: what the model and the regions
    see. It is read-only and may share memory with `native.samples`.
    """

    name: str
    format: Format
    data: bytes
    native: Native
    matte: tuple[int, int, int]
    rgb: U8Image

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        return self.width, self.height


def check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    """Before any library allocates for the size a header claims.

    Raises:
        ItemError: `image.too_large`.
    """
    if width * height > limits.max_pixels:
        raise ItemError("image.too_large", f"{name}: {width} x {height} is over max_pixels {limits.max_pixels:,}")


def upright(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A view of `stored` with EXIF orientation 1-8 applied; writing to the view writes to `stored`."""
    if orientation in (3, 7):
        stored = stored[::-1, ::-1]
    elif orientation == 2:
        stored = stored[:, ::-1]
    elif orientation == 4:
        stored = stored[::-1]
    if orientation in (5, 7):
        return stored.swapaxes(0, 1)
    return np.rot90(stored, {6: -1, 8: 1}.get(orientation, 0))


def as_stored(turned: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The inverse view of `upright`; only the two quarter turns are not their own inverse."""
    return upright(turned, {6: 8, 8: 6}.get(orientation, orientation))
