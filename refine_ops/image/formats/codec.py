"""What a format does: a file of it taken apart once, and everything that is asked of it afterwards.

A codec is a subclass of `ParsedFile`; `table.CODECS` lists them. Nothing outside this folder asks which format a file
has: it asks the file.
"""

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.edit import Edit, Encoded, NewFile
from refine_ops.image.formats.native import Format, Model, Native, Samples, check_size, with_channels
from refine_ops.records import Mask

Bleed = Literal["edge", "none"]
_LOOKED_AT: Final[dict[str, Model]] = {"L": "grey", "LA": "grey", "RGB": "rgb", "RGBA": "rgb", "CMYK": "cmyk"}


@dataclass(frozen=True, slots=True, eq=False)
class ParsedFile(ABC):
    """One image file: its bytes, what messages call it, and (in the subclasses) its parts."""

    data: bytes
    name: str

    format: ClassVar[Format]
    suffix: ClassVar[str]
    """Of files this project names itself."""
    reads: ClassVar[str]
    """What can be refined, for messages: "PNG (8/16-bit, palette)"."""

    @classmethod
    @abstractmethod
    def claims(cls, data: bytes) -> bool:
        """Whether the first bytes are this format's; names and suffixes are not trusted."""

    @classmethod
    @abstractmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Take the file apart; no pixel is decoded.

        Raises:
            ItemError: `image.truncated`, `image.unsupported`, `image.multi_frame`.
        """

    @abstractmethod
    def decode(self, limits: ImageLimits) -> Native:
        """Samples as stored.

        Raises:
            ItemError: `image.too_large` before anything is allocated, `image.truncated`, `image.unsupported`.
        """

    @abstractmethod
    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        """As `decode`, where possible by another library than the one `edit` uses; and that library's name.

        Raises:
            ItemError, OSError, SyntaxError, ValueError: the file cannot be read.
        """

    @abstractmethod
    def edit(self, edit: Edit) -> Encoded:
        """The file with new samples and all else as it was.

        Raises:
            ItemError: `jpeg.no_backend`, `jpeg.refused`, `webp.lossy`, `palette.too_coarse`, `tiff.refused`.
        """

    @abstractmethod
    def metadata(self) -> list[tuple[str, bytes]]:
        """Everything an edit keeps byte for byte, in order: all but coded pixels, where they lie, and thumbnails.

        Content Credentials are among it, though no edit keeps them.
        """

    def credentials(self) -> list[tuple[str, bytes]]:
        """The entries of `metadata` that are Content Credentials (C2PA). They sign a hash of the whole file, so an edit
        drops them: a broken credential says that somebody tampered, none says nothing."""
        return []

    def kept_metadata(self) -> list[tuple[str, bytes]]:
        """`metadata` without Content Credentials: what every edit keeps."""
        credentials = set(self.credentials())
        return [entry for entry in self.metadata() if entry not in credentials]

    @abstractmethod
    def exif(self) -> bytes | None:
        """The TIFF-structured EXIF block, to be carried into another format."""

    @abstractmethod
    def xmp(self) -> bytes | None:
        """The XMP packet as it stands.

        Raises:
            ItemError: `image.truncated`.
        """

    @abstractmethod
    def with_xmp(self, packet: bytes) -> bytes:
        """The file with another XMP packet in the place of its own, or with one where it had none; all else stays.

        Raises:
            ItemError: `provenance.no_room`.
        """

    def labels(self, native: Native) -> Samples | None:
        """Class numbers `(H, W)`, stored orientation, where pixels are single numbers; None where they are colours."""
        return native.samples[..., 0] if native.model == "grey" else None

    @classmethod
    def look(cls, data: bytes, name: str, limits: ImageLimits) -> Native:
        """The first picture of a file that is only looked at: layouts that cannot be edited are read as well.

        Raises:
            ItemError: `image.too_large`, `image.truncated`, `image.unsupported`.
        """
        return look_with_pillow(cls.format, data, name, limits)

    @classmethod
    def create(cls, new: NewFile, name: str) -> bytes:
        """A new file with exactly these samples.

        Raises:
            ItemError: `image.unsupported` where this format cannot hold them exactly, or none is written here.
        """
        raise ItemError("image.unsupported", f"{name}: no {cls.format} is made from other formats; use PNG")

    def wholly_inside(self, region: Mask) -> Mask:
        """`bool (H, W)`, stored orientation: the pixels that can change without any outside `region` changing."""
        return region


def look_with_pillow(kind: Format, data: bytes, name: str, limits: ImageLimits) -> Native:
    """`ParsedFile.look` for every layout that Pillow reads."""
    try:
        with Image.open(BytesIO(data), formats=[kind.upper()]) as image:
            check_size(image.width, image.height, name, limits)
            return _shown(image)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ItemError("image.unsupported", f"{name}: no library here reads it ({error}); convert it") from error


def unit_floats(samples: npt.NDArray[Any]) -> Samples:
    """Floating-point samples as `uint16`: they count from 0 to 1, or to 255 or 65,535 where one exceeds that.

    Raises:
        ValueError: samples below 0, above 65,535, or no numbers.
    """
    top = float(samples.max())
    if not np.isfinite(samples).all() or samples.min() < 0 or top > 0xFFFF:
        raise ValueError(f"floating-point samples from {samples.min()} to {top}, expected 0 to 1")
    full = next(full for full in (1.0, 255.0, 65535.0) if top <= full)
    return np.rint(with_channels(samples) * (65535 / full)).astype(np.uint16)


def _shown(image: Image.Image) -> Native:
    """What Pillow makes of its current frame: palettes and bits expanded, 16 bits kept, other models as RGB."""
    icc, block = image.info.get("icc_profile"), image.info.get("exif") or b""
    if image.mode == "F":
        return Native(unit_floats(np.asarray(image)), "grey", icc=icc)
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError(f"samples from {wide.min()} to {wide.max()}")
        return Native(with_channels(wide.astype(np.uint16)), "grey", icc=icc)
    if image.mode not in _LOOKED_AT:
        clear = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if clear else "RGB")
    turn = exif.orientation(bytes(block).removeprefix(b"Exif\0\0"))
    return Native(with_channels(np.asarray(image)), _LOOKED_AT[image.mode], image.mode.endswith("A"), turn, icc)
