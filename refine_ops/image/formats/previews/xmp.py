"""What an XMP packet holds that no edit may leave: thumbnails of the old picture, and the pointer to a credential, in
the file or elsewhere, that no longer fits.

Both are overwritten with spaces, which between tags and attributes say nothing: no byte of the packet moves.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

_TO: Final = rb"(?:self\#jumbf|https?://)"
_QUOTED: Final = rb"""(?:"\s*%b[^"<>]*"|'\s*%b[^'<>]*')""" % (_TO, _TO)
_POINTER: Final = re.compile(
    rb"(?<=\s)dcterms:provenance\s*=\s*" + _QUOTED + rb"|<dcterms:provenance\s+rdf:resource\s*=\s*" + _QUOTED + rb"\s*"
    rb"(?:/>|></dcterms:provenance\s*>)"
    rb"|<dcterms:provenance\s*>\s*" + _TO + rb"[^<>]*</dcterms:provenance\s*>"
)
"""As C2PA's specification writes it, within the file or to a store elsewhere, which readers follow."""
_THUMBNAILS: Final = re.compile(rb"<(xmp|xap):Thumbnails(?=[\s>])[^<>]*(?<!/)>")

_GUID, _HEAD = 32, 40


def without_stale(packet: bytes) -> bytes:
    """The packet, as long as before, without thumbnails and without a pointer to a credential. Idempotent."""
    blank, at = bytearray(packet), 0
    while (opens := _THUMBNAILS.search(packet, at)) is not None:
        end = b"</" + opens[1] + b":Thumbnails>"
        closes = packet.find(end, opens.end())
        if closes < 0:
            break  # not whole XML; and a search from every further tag would take the square of the time
        at = closes + len(end)
        blank[opens.start() : at] = b" " * (at - opens.start())
    return _POINTER.sub(lambda found: b" " * len(found[0]), bytes(blank))


def parts_without_stale(parts: Sequence[bytes]) -> list[bytes]:
    """A JPEG's Extended XMP (XMP specification part 3, 1.1.3.1), likewise: each part as long as before.

    A part is the GUID of a packet (32), its length (4), where the part lies in it (4), and the part. The GUID, a digest
    of the packet as it was, stays: it says which packet belongs to the file's first one, and nobody checks more.
    """
    fresh, packets = list(parts), defaultdict[bytes, list[tuple[int, int]]](list)
    for at, part in enumerate(parts):
        if len(part) > _HEAD:
            packets[part[:_GUID]].append((struct.unpack_from(">I", part, _GUID + 4)[0], at))
    for own in map(sorted, packets.values()):
        packet = b"".join(parts[at][_HEAD:] for _, at in own)
        ends = [0]
        for _, at in own:
            ends.append(ends[-1] + len(parts[at]) - _HEAD)
        if [offset for offset, _ in own] != ends[:-1]:
            continue  # a part is missing: nobody can read it
        clean = without_stale(packet)
        for (offset, at), end in zip(own, ends[1:], strict=True):
            fresh[at] = parts[at][:_HEAD] + clean[offset:end]
    return fresh
