"""Encode the edited image into the bytes to be published, in the file's own format unless told otherwise."""

from typing import Final

from refine_ops.config import WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image import convert
from refine_ops.image.formats.edit import Edit, Encoded
from refine_ops.image.formats.native import Format
from refine_ops.image.formats.other import OtherFile
from refine_ops.image.formats.png_pixels import LEVEL, encode_png
from refine_ops.image.paste import Canvas
from refine_ops.image.source import Source, as_stored

_TARGETS: Final[dict[str, Format]] = {"png": "png", "webp-lossless": "webp"}


def check(source: Source, settings: WriteSettings) -> None:
    """Before anything is refined.

    Raises:
        ItemError: `image.unsupported` -- the source's format is only read, and no other one is asked for.
    """
    if isinstance(source.file, OtherFile) and settings.output_format == "source":
        raise source.file.not_edited()


def encode(source: Source, canvas: Canvas, settings: WriteSettings, *, confined: bool = False) -> Encoded:
    """The canvas as file bytes.

    Args:
        confined: The blend was confined to the region: chroma never bleeds, whatever `jpeg_bleed` says.

    Raises:
        ItemError: `jpeg.no_backend`, `jpeg.refused`, `webp.lossy`, `palette.too_coarse`, `tiff.refused`,
            `image.unsupported` (a conversion that would lose something).
    """
    target = _TARGETS.get(settings.output_format, source.format)
    if target != source.format:
        return _converted(source, canvas, target)
    stored = as_stored(canvas.support, source.native.orientation)
    edit = Edit(source.native.samples, canvas.samples, stored, canvas.stored_rgb, settings, confined)
    try:
        return source.file.edit(edit)
    except ItemError as error:
        if settings.jpeg_fallback == "refuse" or not error.reason.startswith("jpeg."):
            raise
        return _converted(source, canvas, "png")


def change_mask(canvas: Canvas) -> bytes:
    """A grey PNG in image coordinates: 0 where nothing was touched, 255 where the result replaced the source."""
    return encode_png(canvas.change, LEVEL)


def _converted(source: Source, canvas: Canvas, target: Format) -> Encoded:
    return Encoded(convert.encode(source, canvas.samples, target), target)
