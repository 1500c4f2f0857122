"""The size of an image from its header, before anything is decoded."""

import io
from typing import Final

from PIL import Image, UnidentifiedImageError

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF")


def header_pixels(data: bytes) -> int:
    """Width x height as the header claims, or 0 where no header can be read (decoding will say why)."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return int(image.width) * int(image.height)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0
