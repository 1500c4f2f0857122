"""What an XMP packet holds that no edit may leave: thumbnails of the old picture, and the pointer to a credential, in
the file or elsewhere, that no longer fits.

Both are overwritten with spaces, which between tags and attributes say nothing: no byte of the packet moves.
"""

import re
from typing import Final

_TO: Final = rb"(?:self\#jumbf|https?://)"
_QUOTED: Final = rb"""(?:"%b[^"<>]*"|'%b[^'<>]*')""" % (_TO, _TO)
_POINTER: Final = re.compile(
    rb"(?<=\s)dcterms:provenance\s*=\s*" + _QUOTED + rb"|<dcterms:provenance\s+rdf:resource\s*=\s*" + _QUOTED + rb"\s*"
    rb"(?:/>|></dcterms:provenance\s*>)"
    rb"|<dcterms:provenance\s*>\s*" + _TO + rb"[^<>]*</dcterms:provenance\s*>"
)
"""As C2PA's specification writes it, within the file or to a store elsewhere, which readers follow."""
_THUMBNAILS: Final = re.compile(rb"<(xmp|xap):Thumbnails(?=[\s>])[^<>]*(?<!/)>")


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
