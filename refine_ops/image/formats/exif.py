"""The two things EXIF decides here: which way is up, and the small picture that would show the old defect.

Edits are made in place: no byte moves, so maker notes and offsets stay valid.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ORIENTATION: Final = 0x0112
_THUMBNAIL_OFFSET: Final = 0x0201
_THUMBNAIL_BYTES: Final = 0x0202
_SHORT: Final = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    kind: int
    at: int
    """Offset of the entry's value field in the block."""


def orientation(tiff: bytes) -> int:
    """EXIF orientation 1-8 of a TIFF-structured block; 1 where absent or malformed, as viewers do."""
    order = _byte_order(tiff)
    if order is None:
        return 1
    for entry in _entries(tiff, order, _first_ifd(tiff, order)):
        if entry.tag == _ORIENTATION and entry.kind == _SHORT:
            value = int(struct.unpack_from(order + "H", tiff, entry.at)[0])
            return value if 1 <= value <= 8 else 1
    return 1


def with_orientation_1(tiff: bytes) -> bytes:
    """The block with its orientation tag, if any, set to 1: for files written upright."""
    order = _byte_order(tiff)
    block = bytearray(tiff)
    if order is not None:
        for entry in _entries(tiff, order, _first_ifd(tiff, order)):
            if entry.tag == _ORIENTATION and entry.kind == _SHORT:
                struct.pack_into(order + "H", block, entry.at, 1)
    return bytes(block)


def thumbnail(tiff: bytes) -> bytes | None:
    """The embedded JPEG thumbnail (IFD 1), or None."""
    found = _thumbnail_span(tiff)
    return tiff[found[0] : found[1]] if found else None


def without_thumbnail(tiff: bytes) -> bytes:
    """The block with IFD 1 unlinked and the thumbnail's bytes zeroed. Idempotent; the length stays."""
    order = _byte_order(tiff)
    if order is None:
        return tiff
    block = bytearray(tiff)
    link = _link_after(tiff, order, _first_ifd(tiff, order))
    if link is None:
        return tiff
    span = _thumbnail_span(tiff)
    if span:
        block[span[0] : span[1]] = bytes(span[1] - span[0])
        for entry in _thumbnail_entries(tiff, order):
            block[entry.at : entry.at + 4] = bytes(4)
    block[link : link + 4] = bytes(4)
    return bytes(block)


def with_thumbnail(tiff: bytes, jpeg: bytes) -> bytes | None:
    """The block with its thumbnail replaced, or None where there is none or the new one is longer."""
    order, span = _byte_order(tiff), _thumbnail_span(tiff)
    if order is None or span is None or len(jpeg) > span[1] - span[0]:
        return None
    block = bytearray(tiff)
    block[span[0] : span[1]] = jpeg.ljust(span[1] - span[0], b"\0")
    for entry in _thumbnail_entries(tiff, order):
        if entry.tag == _THUMBNAIL_BYTES:
            block[entry.at : entry.at + 4] = struct.pack(order + "I", len(jpeg))
    return bytes(block)


def _byte_order(tiff: bytes) -> str | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    return order if len(tiff) >= 14 else None


def _first_ifd(tiff: bytes, order: str) -> int:
    return int(struct.unpack_from(order + "I", tiff, 4)[0])


def _entries(tiff: bytes, order: str, ifd: int) -> Iterator[_Entry]:
    if ifd < 8 or ifd + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(order + "H", tiff, ifd)
    for at in range(ifd + 2, min(ifd + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, at)
        yield _Entry(tag, kind, at + 8)


def _link_after(tiff: bytes, order: str, ifd: int) -> int | None:
    """Where IFD `ifd` stores the offset of the next one, or None if the block ends before."""
    if ifd < 8 or ifd + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(order + "H", tiff, ifd)
    at = int(ifd + 2 + 12 * count)
    return at if at + 4 <= len(tiff) else None


def _thumbnail_entries(tiff: bytes, order: str) -> list[_Entry]:
    link = _link_after(tiff, order, _first_ifd(tiff, order))
    if link is None:
        return []
    (second,) = struct.unpack_from(order + "I", tiff, link)
    return [e for e in _entries(tiff, order, second) if e.tag in (_THUMBNAIL_OFFSET, _THUMBNAIL_BYTES)]


def _thumbnail_span(tiff: bytes) -> tuple[int, int] | None:
    order = _byte_order(tiff)
    if order is None:
        return None
    values = {e.tag: int(struct.unpack_from(order + "I", tiff, e.at)[0]) for e in _thumbnail_entries(tiff, order)}
    start, size = values.get(_THUMBNAIL_OFFSET, 0), values.get(_THUMBNAIL_BYTES, 0)
    return (start, start + size) if size and start >= 8 and start + size <= len(tiff) else None
