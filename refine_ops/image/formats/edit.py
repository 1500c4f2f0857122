"""What a codec is given to edit or to make a file from, and what it returns."""

from dataclasses import dataclass

from refine_ops.config import WriteSettings
from refine_ops.image.formats.native import Format, Model, Samples
from refine_ops.records import Mask, U8Image


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """New samples for a file. All arrays are in stored orientation.

    `before` and `after` are laid out as `Native.samples` and equal outside `support`; `shown` is the edited picture in
    sRGB, for a fresh thumbnail. `confined` says that nothing outside the region may change: JPEG chroma never bleeds,
    whatever `settings.jpeg_bleed` says.
    """

    before: Samples
    after: Samples
    support: Mask
    shown: U8Image
    settings: WriteSettings
    confined: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NewFile:
    """What a file of another format is made from: upright samples, and what is carried over with them."""

    samples: Samples
    model: Model
    alpha: bool
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Bytes ready to publish. Where the format is not the source's, the file is upright, and metadata is carried over
    rather than kept byte for byte."""

    data: bytes
    format: Format
