"""Photoshop's image resources: a list of blocks, of which a thumbnail would show the old defect."""

import struct
from collections.abc import Callable
from typing import Final

_SIGNATURES: Final = (b"8BIM", b"8B64", b"MeSa", b"PHUT", b"AgHg", b"DCSR")
_OLD_THUMBNAIL, _THUMBNAIL = 0x0409, 0x040C
_HEADER_BYTES: Final = 28
"""Format, width, height, bytes of a row, of all rows, of the JPEG, bits, planes; then the JPEG."""


def split(resources: bytes) -> list[tuple[int, bytes]] | None:
    """(number, whole block) in order; None where the list is not whole: then nobody knows what is in it."""
    found, at = [], 0
    while at < len(resources):
        if resources[at : at + 4] not in _SIGNATURES or at + 12 > len(resources):
            return None
        (number,) = struct.unpack_from(">H", resources, at + 4)
        behind = at + 6 + (resources[at + 6] + 2) // 2 * 2  # a counted name, padded to an even length
        size = int.from_bytes(resources[behind : behind + 4], "big")
        end = behind + 4 + size + size % 2
        if behind + 4 + size > len(resources):
            return None
        found.append((number, resources[at:end]))
        at = end
    return found


def with_thumbnails(resources: bytes, fresh: Callable[[bytes], bytes | None]) -> bytes:
    """The list with every thumbnail made anew by `fresh`, which is given the old JPEG; or without it, where that
    returns None or the thumbnail is of the older kind, whose colours are the other way round."""
    blocks = split(resources)
    if blocks is None or all(number not in (_OLD_THUMBNAIL, _THUMBNAIL) for number, _ in blocks):
        return resources
    out = []
    for number, block in blocks:
        if number not in (_OLD_THUMBNAIL, _THUMBNAIL):
            out.append(block)
        elif number == _THUMBNAIL and (renewed := _renewed(block, fresh)):
            out.append(renewed)
    return b"".join(out)


def without_thumbnails(resources: bytes) -> bytes:
    return with_thumbnails(resources, lambda _: None)


def _renewed(block: bytes, fresh: Callable[[bytes], bytes | None]) -> bytes | None:
    behind = 6 + (block[6] + 2) // 2 * 2
    (size,) = struct.unpack_from(">I", block, behind)
    data = block[behind + 4 : behind + 4 + size]
    jpeg = fresh(data[_HEADER_BYTES:])
    if jpeg is None or len(data) < _HEADER_BYTES:
        return None
    renewed = data[:20] + struct.pack(">I", len(jpeg)) + data[24:_HEADER_BYTES] + jpeg
    return block[:behind] + struct.pack(">I", len(renewed)) + renewed + b"\0" * (len(renewed) % 2)
