"""The formats, one codec each. A new format is a module with a `ParsedFile`, its tests, and a row here."""

import io
from typing import Final

from PIL import Image, UnidentifiedImageError

from refine_ops.errors import ItemError
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.jpeg import JpegFile
from refine_ops.image.formats.native import Format
from refine_ops.image.formats.other import AvifFile, BmpFile, GifFile, HeicFile, Jpeg2000File, register_heif
from refine_ops.image.formats.png_pixels import PngFile
from refine_ops.image.formats.tiff_strips import TiffFile
from refine_ops.image.formats.webp import WebpFile

CODECS: Final[dict[Format, type[ParsedFile]]] = {
    "jpeg": JpegFile,
    "png": PngFile,
    "webp": WebpFile,
    "tiff": TiffFile,
    "bmp": BmpFile,
    "gif": GifFile,
    "avif": AvifFile,
    "heic": HeicFile,
    "jpeg2000": Jpeg2000File,
}

MEDIA_SUFFIX: Final[dict[Format, str]] = {kind: codec.suffix for kind, codec in CODECS.items()}
SUPPORTED: Final = ", ".join(codec.reads for codec in CODECS.values())


_FOREIGN: Final = (
    (0, b"8BPS", "Photoshop file"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"\0\0\1\0", "Windows icon"),
)
"""Kinds that people try: where their mark stands, the mark, the name."""


def foreign(data: bytes) -> str | None:
    """What a file is that no codec here claims, where its first bytes say so."""
    return next((name for at, mark, name in _FOREIGN if data[at : at + len(mark)] == mark), None)


def sniff(data: bytes) -> Format | None:
    """The format by its first bytes."""
    return next((kind for kind, codec in CODECS.items() if codec.claims(data)), None)


def header_pixels(data: bytes) -> int:
    """Width x height as the header claims, or 0 where no header can be read (decoding will say why)."""
    kind = sniff(data)
    if kind is None:
        return 0
    try:
        if kind == "heic":
            register_heif("image")
        with Image.open(io.BytesIO(data), formats=["HEIF" if kind == "heic" else kind.upper()]) as image:
            return int(image.width) * int(image.height)
    except (ItemError, UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0
