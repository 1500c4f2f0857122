"""Small masks that stand in a text file as a PNG in base64."""

import base64
import binascii
import zlib
from functools import partial
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from refine_ops.annotations.shapes import Painted
from refine_ops.errors import ItemError
from refine_ops.records import Mask

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HALF: Final = 128


def embedded_mask(text: Any, name: str, *, left: int = 0, top: int = 0, whole: bool) -> Painted:
    """The picture's marked pixels, decoded when they are wanted: its alpha from half on, where it has one, or else its
    grey; one of two values where these are 0 and something.

    Raises:
        ItemError: `bitmap.invalid`.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("expected text in base64")
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as e:
        raise ItemError("bitmap.invalid", f"{name}: {e}") from e
    if not data.startswith(_SIGNATURE) or len(data) < 24:
        raise ItemError("bitmap.invalid", f"{name}: no PNG")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return Painted(width, height, partial(_decoded, data, (width, height), name), left, top, whole)


def _decoded(data: bytes, size: tuple[int, int], name: str) -> Mask:
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            alpha = "A" in image.getbands()
            level = np.asarray(image.getchannel("A") if alpha else image.convert("L"))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, zlib.error) as e:
        raise ItemError("bitmap.invalid", f"{name}: a damaged PNG ({e})") from e
    if level.shape[::-1] != size:
        raise ItemError("bitmap.invalid", f"{name}: a damaged PNG")
    return np.asarray(level > 0 if level.max() < _HALF else level >= _HALF)
