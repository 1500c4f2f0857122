"""The one addition that a file's metadata may have: XMP says that a trained model made a part of the picture.

Judged without the writer's code: what a packet states is read by another parser, and without the statement (or with the
value that stood there before) its bytes must be the source's.
"""

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

_COMPOSITE: Final = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_ALL_OF_IT: Final = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_RDF: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_SOURCE_TYPE: Final = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
_ADDED: Final = re.compile(
    rb'<rdf:Description xmlns:rdf="http://www\.w3\.org/1999/02/22-rdf-syntax-ns#" '
    rb'xmlns:Iptc4xmpExt="http://iptc\.org/std/Iptc4xmpExt/2008-02-29/" rdf:about=(?:"[^"<>]*"|\'[^\'<>]*\')>'
    rb"<Iptc4xmpExt:DigitalSourceType>" + re.escape(_COMPOSITE) + rb"</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
)
_EMPTY: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_ENTRIES: Final = frozenset({"e1", "iTXt", "XMP ", "700"})
"""What the four formats call the entry that XMP lies in."""
_LONGEST_VALUE: Final = 200
_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10


def says_so(xmp: bytes | None) -> bool:
    """Whether a packet states that a model made the picture or a part of it, and no other source of it."""
    found = _sources(xmp)
    return found is not None and found[0] in ([_COMPOSITE.decode()], [_ALL_OF_IT.decode()])


def only_marked(before: bytes | None, after: bytes | None) -> bool:
    """Whether `after` is the packet `before` (None: one that says nothing) with that statement and no other difference.

    A source's own value, of any kind but that a model made the whole picture, may have become this one.
    """
    if after is None or not says_so(after):
        return False
    if before == after:
        return True
    before = _EMPTY if before is None else before
    added = _ADDED.search(after)
    if added is not None and after[: added.start()] + after[added.end() :] == before:
        left, right = _sources(before), _sources(after)
        return left is not None and right is not None and right[1] == (left[1] or {""})
    at = after.find(_COMPOSITE)
    behind = len(after) - at - len(_COMPOSITE)
    old = before[at : len(before) - behind]
    same = at >= 0 and before[:at] == after[:at] and before[len(before) - behind :] == after[len(after) - behind :]
    return same and len(old) <= _LONGEST_VALUE and not set(old) & set(b"<>\"'") and old.strip() != _ALL_OF_IT


def same_but_for_xmp(before: list[tuple[str, bytes]], after: list[tuple[str, bytes]]) -> bool:
    """Whether two files' metadata are equal but for one entry of the kind that holds XMP, changed or added; a WebP's
    header may say so."""
    left, right = ([(name, _header(name, held)) for name, held in entries] for entries in (before, after))
    if not any(name == "VP8X" for name, _ in before):
        right = [entry for entry in right if entry[0] != "VP8X" or entry[1][0] & ~_ALPHA_FLAG]
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    gone, come = left[start : len(left) - end], right[start : len(right) - end]
    if not gone and not come:
        return True
    return len(come) == 1 and come[0][0] in _ENTRIES and [name for name, _ in gone] in ([], [come[0][0]])


def _header(name: str, held: bytes) -> bytes:
    return bytes([held[0] & ~_XMP_FLAG]) + held[1:] if name == "VP8X" and held else held


def _sources(xmp: bytes | None) -> tuple[list[str], set[str]] | None:
    """Every value of DigitalSourceType, and what the descriptions are about; None where it is no XMP."""
    if xmp is None or b"<!DOCTYPE" in xmp:
        return None
    try:
        root = ElementTree.fromstring(xmp)
    except (ElementTree.ParseError, ValueError):
        return None
    found = [element.get(f"{_RDF}resource") or (element.text or "").strip() for element in root.iter(_SOURCE_TYPE)]
    found += [element.attrib[_SOURCE_TYPE] for element in root.iter() if _SOURCE_TYPE in element.attrib]
    return found, {described.get(f"{_RDF}about", "") for described in root.iter(f"{_RDF}Description")}


def _common(left: Sequence[object], right: Sequence[object]) -> int:
    """How many leading entries are equal."""
    shorter = min(len(left), len(right))
    return next((at for at in range(shorter) if left[at] != right[at]), shorter)
