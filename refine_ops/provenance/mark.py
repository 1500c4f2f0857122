"""IPTC's DigitalSourceType in an XMP packet: one statement is added, and no other byte of the packet changes."""

from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from refine_ops.errors import ItemError

COMPOSITE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""A picture of which a part was made by a trained model."""
_SAYS_MORE: Final = frozenset({COMPOSITE, "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"})
"""A picture that a model made as a whole stays one, whatever is edited in it."""
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC: Final = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_STATEMENT: Final = (
    '<rdf:Description xmlns:rdf="{rdf}" xmlns:Iptc4xmpExt="{iptc}" rdf:about={about}>'
    "<Iptc4xmpExt:DigitalSourceType>{value}</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
)
_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="{rdf}">{statement}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def marked(packet: bytes | None, name: str) -> bytes:
    """The packet with the statement that a trained model made a part of the picture; a new packet where there is none.

    A value that is there already is replaced, unless it says as much or more: then the packet stays as it is.

    Raises:
        ItemError: `provenance.bad_xmp` -- the packet cannot be read, or not changed in one place.
    """
    if packet is None:
        return _PACKET.format(rdf=_RDF, statement=_statement("")).encode()
    found = _read(packet, name)
    if found.values:
        (start, end), value = found.values[0]
        return packet if value in _SAYS_MORE else packet[:start] + COMPOSITE.encode() + packet[end:]
    return packet[: found.closes] + _statement(found.about).encode() + packet[found.closes :]


def _statement(about: str) -> str:
    return _STATEMENT.format(rdf=_RDF, iptc=_IPTC, about=quoteattr(about), value=COMPOSITE)


@dataclass(slots=True)
class _Found:
    """Offsets are bytes of the packet."""

    about: str = ""
    closes: int = 0
    """Where the RDF element's end tag begins."""
    values: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    """Where each DigitalSourceType's value lies, and the value."""


def _read(packet: bytes, name: str) -> _Found:
    """Where things are; expat says at which byte each tag begins."""
    if b"<!DOCTYPE" in packet or b"\0" in packet:
        raise _bad(name, "it has a document type, or is not UTF-8")
    parser, found, source = expat.ParserCreate(namespace_separator=" "), _Found(), f"{_IPTC} DigitalSourceType"
    inside: list[int] = []  # where the text of the DigitalSourceType begins that is open

    def start(tag: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        closes = _tag_end(packet, at)
        found.about = found.about or attributes.get(f"{_RDF} about", "")
        if tag == source and f"{_RDF} resource" in attributes:
            found.values.append(_attribute(packet, at, closes, attributes[f"{_RDF} resource"]))
        elif tag == source:
            inside.append(closes)
        if source in attributes:
            found.values.append(_attribute(packet, at, closes, attributes[source]))

    def end(tag: str) -> None:
        at = parser.CurrentByteIndex
        if tag == f"{_RDF} RDF":
            found.closes = at if packet[at : at + 2] == b"</" else 0
        if tag == source and inside:
            begins = inside.pop()
            found.values.append(((begins, at), packet[begins:at].decode().strip()))

    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(packet, True)
    except (expat.ExpatError, UnicodeDecodeError, ValueError) as error:
        raise _bad(name, str(error)) from error
    if not found.closes:
        raise _bad(name, "it holds no RDF")
    if len(found.values) > 1 or any("<" in value for _, value in found.values):
        raise _bad(name, "its DigitalSourceType is not one plain value")
    return found


def _tag_end(packet: bytes, at: int) -> int:
    """Just past the `>` of the start tag at `at`; inside quotes it is text."""
    quote = 0
    for index in range(at, len(packet)):
        byte = packet[index]
        if quote:
            quote = 0 if byte == quote else quote
        elif byte in b"\"'":
            quote = byte
        elif byte == ord(">"):
            return index + 1
    raise ValueError("a tag has no end")


def _attribute(packet: bytes, at: int, closes: int, value: str) -> tuple[tuple[int, int], str]:
    """Where an attribute's value lies: a URL of the vocabulary holds nothing that XML would write otherwise."""
    coded = value.encode()
    if packet.count(coded, at, closes) != 1:
        raise ValueError(f"the value {value!r} is written in another way")
    start = packet.index(coded, at, closes)
    return (start, start + len(coded)), value


def _bad(name: str, problem: str) -> ItemError:
    return ItemError(
        "provenance.bad_xmp",
        f"{name}: its XMP cannot be marked ({problem}); mend it, or set provenance.mark to 'none'",
    )
