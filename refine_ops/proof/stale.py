"""What an edit may have blanked in an XMP packet: thumbnails of the old picture, pointers to a credential.

Judged without the writer's code: where they lie is told by an XML parser, which knows namespaces and byte positions.
"""

import re
from typing import Final
from xml.parsers import expat

_XMP: Final = "http://ns.adobe.com/xap/1.0/"
_THUMBNAILS: Final = f"{_XMP} Thumbnails"
_POINTER: Final = "http://purl.org/dc/terms/ provenance"
_RESOURCE: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"
_STORES: Final = ("self#jumbf", "http://", "https://")
"""How a pointer to a credential begins, in the file or elsewhere."""
_LINK: Final = re.compile(rb"""(?<!/)dcterms:provenance\s*(?:(?:rdf:resource\s*)?=\s*["']|>)\s*https?://""")
_ATTRIBUTE: Final = re.compile(rb"""[\w.-]+:provenance\s*=\s*(["'])\s*(?:self#jumbf|https?://)[^"'<>]*\1""")

_TAG: Final = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")


def without_blanked(before: bytes, after: bytes) -> bytes:
    """The packet `before` with those of its stale parts blank that are blank in `after`, for comparison with it; where
    `after` is not as long, nothing says which, and all are."""
    cleared = bytearray(before)
    for start, end in _stale(before):
        if len(before) != len(after) or not after[start:end].strip(b" "):
            cleared[start:end] = b" " * (end - start)
    return bytes(cleared)


def links_elsewhere(packet: bytes | None) -> bool:
    """Whether a packet says that the file's credential lies in a store elsewhere; also in what is no whole XML."""
    return packet is not None and _LINK.search(packet) is not None


def _stale(packet: bytes) -> list[tuple[int, int]]:
    """Where they lie, from the first byte to behind the last; nothing in what is no XML, or defines entities."""
    if b"<!DOCTYPE" in packet:
        return []
    found: list[tuple[int, int]] = []
    open_: list[tuple[str, int, bool]] = []
    """Elements that are open: name, place, and whether what was read of them so far makes them stale."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def starts(name: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        points = name == _POINTER and attributes.get(_RESOURCE, "").lstrip().startswith(_STORES)
        open_.append((name, at, name == _THUMBNAILS or points))
        if attributes.get(_POINTER, "").lstrip().startswith(_STORES):
            span = _ATTRIBUTE.search(packet, at)
            if span is not None:
                found.append(span.span())

    def says(text: str) -> None:
        if open_ and open_[-1][0] == _POINTER and text.lstrip().startswith(_STORES):
            open_[-1] = (*open_[-1][:2], True)

    def ends(_: str) -> None:
        _, start, stale = open_.pop()
        if stale:
            # Of an empty element the parser tells the end of its only tag, which may be where another one begins.
            tag = _TAG.match(packet, start)
            only = tag is not None and tag[0].endswith(b"/>")
            found.append((start, tag.end() if tag and only else packet.index(b">", parser.CurrentByteIndex) + 1))

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = starts, ends, says
    try:
        parser.Parse(packet, True)
    except (expat.ExpatError, ValueError):
        return []
    return found
