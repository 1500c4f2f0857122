"""What a format does: a file of it taken apart once, and everything that is asked of it afterwards.

A codec is a subclass of `ParsedFile`; `table.CODECS` lists them. Nothing outside this folder asks which format a file
has: it asks the file.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats.edit import Edit, Encoded, NewFile
from refine_ops.image.formats.native import Format, Native
from refine_ops.records import Mask

Bleed = Literal["edge", "none"]


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
        """Everything an edit keeps byte for byte, in order: all but coded pixels, where they lie, and thumbnails."""

    @abstractmethod
    def exif(self) -> bytes | None:
        """The TIFF-structured EXIF block, to be carried into another format."""

    @abstractmethod
    def xmp(self) -> bytes | None:
        """The XMP packet, to be carried into another format."""

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
