"""A decoded image beside the parsed file it came from, and how EXIF orientation turns pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.native import Format, Native
from refine_ops.records import U8Image


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One image file, decoded.

    `rgb` is `uint8 (H, W, 3)`, upright, converted to sRGB and composited over `matte`: what the model and the regions
    see. It is read-only and may share memory with `native.samples`.
    """

    file: ParsedFile
    native: Native
    matte: tuple[int, int, int]
    rgb: U8Image

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def format(self) -> Format:
        return self.file.format

    @property
    def data(self) -> bytes:
        return self.file.data

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
