"""Packing and unpacking of TIFF strips: bytes in, bytes out, whatever the samples mean."""

import struct
import zlib
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
COMPRESSIONS: Final = frozenset({_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS})
_PILLOW_NAMES: Final = {_LZW: "tiff_lzw", _PACKBITS: "packbits"}
_OFFSETS, _ROWS, _COUNTS = 273, 278, 279
_SHORT, _LONG = 3, 4


def unpack(strips: list[bytes], row_bytes: int, height: int, rows: int, compression: int) -> npt.NDArray[np.uint8]:
    """`uint8 (height, row_bytes)` from packed strips of `rows` rows each.

    The strips are shown to libtiff as a grey picture of bytes, so that one decoder serves every depth and colour, and
    no tag of the file acts on the samples.

    Raises:
        OSError, ValueError: The strips are damaged or short.
    """
    if compression == _NONE:
        raw = np.frombuffer(b"".join(strips), np.uint8)
        if len(raw) < row_bytes * height:
            raise ValueError(f"{len(raw)} of {row_bytes * height} bytes")
        return raw[: row_bytes * height].reshape(height, row_bytes)
    picture = _byte_picture(strips, row_bytes, height, rows, compression)
    with Image.open(BytesIO(picture), formats=["TIFF"]) as image:
        return np.array(image)


def pack(rows: npt.NDArray[np.uint8], compression: int) -> bytes:
    """One strip of `uint8 (rows, row_bytes)`."""
    if compression == _NONE:
        return rows.tobytes()
    if compression in (_DEFLATE, _OLD_DEFLATE):
        return zlib.compress(rows.tobytes())
    out = BytesIO()
    Image.fromarray(rows).save(out, "TIFF", compression=_PILLOW_NAMES[compression], tiffinfo={_ROWS: len(rows)})
    with Image.open(out, formats=["TIFF"]) as image:
        offset, size = (int(np.ravel(image.getexif()[tag])[0]) for tag in (_OFFSETS, _COUNTS))
    return out.getvalue()[offset : offset + size]


def _byte_picture(strips: list[bytes], width: int, height: int, rows: int, compression: int) -> bytes:
    """A little-endian grey 8-bit TIFF around already packed strips."""
    body = b"".join(strips)
    sizes = np.array([len(s) for s in strips], "<u4")
    starts = (8 + np.cumsum(sizes) - sizes).astype("<u4")
    tables_at, many = 8 + len(body), len(strips) > 1
    entries = [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, compression),
        (262, _SHORT, 1, 1),
        (_OFFSETS, _LONG, len(strips), tables_at if many else int(starts[0])),
        (277, _SHORT, 1, 1),
        (_ROWS, _LONG, 1, rows),
        (_COUNTS, _LONG, len(strips), tables_at + 4 * len(strips) if many else int(sizes[0])),
    ]
    listing = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + listing + bytes(4)
    tables: bytes = starts.tobytes() + sizes.tobytes()
    return b"II*\0" + struct.pack("<I", tables_at + len(tables)) + body + tables + directory
