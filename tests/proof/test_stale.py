"""What may be blank in an XMP packet is judged by an XML parser; whatever else is blank is a loss."""

import pytest

from refine_ops.image.formats.previews.xmp import without_stale
from refine_ops.proof.stale import without_blanked
from tests.image.formats.test_xmp import OLD, PACKET, POINTER

_NAMES = b'xmlns:xap="http://ns.adobe.com/xap/1.0/" xmlns:dcterms="http://purl.org/dc/terms/"'
_RDF = b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'


def blank(packet: bytes, part: bytes) -> bytes:
    assert packet.count(part) == 1
    return packet.replace(part, b" " * len(part))


def kept(before: bytes, after: bytes) -> bool:
    return without_blanked(before, after) == after


def test_what_the_writer_blanks_is_what_the_parser_finds_stale() -> None:
    after = without_stale(PACKET)
    assert after != PACKET
    assert kept(PACKET, after)
    assert kept(PACKET, PACKET), "left as it was it is not lost"
    assert kept(PACKET, blank(PACKET, b'dcterms:provenance="' + POINTER + b'"')), "one of the two"
    assert without_blanked(PACKET, after + b"and a mark") == after, "of another length: all are"


@pytest.mark.parametrize(
    "written",
    [
        b"<dcterms:provenance>\n self#jumbf=c2pa</dcterms:provenance>",
        b"<dcterms:provenance rdf:resource='self#jumbf=c2pa'/>",
        b"<a dcterms:provenance = 'self#jumbf=c2pa'/>",
        b'<a b="https://x" dcterms:provenance="https://cai.example/m"/>',
        b'<a dcterms:provenance=" https://cai.example/m"/>',
        b"<dcterms:provenance rdf:resource=' https://cai.example/m'/>",
        b"<dcterms:provenance>https://cai.example/m</dcterms:provenance>",
        b"<xap:Thumbnails><rdf:Alt>&#xA;</rdf:Alt></xap:Thumbnails>",
    ],
)
def test_each_way_of_writing_it_may_be_blank(written: bytes) -> None:
    packet = b"<x " + _NAMES + b" " + _RDF + b">" + written + b"<b/></x>"
    assert kept(packet, without_stale(packet))
    assert without_stale(packet) != packet


@pytest.mark.parametrize(
    "part", [b'xmp:Rating="5"', b"<xmp:CreatorTool>kept</xmp:CreatorTool>", OLD, b' rdf:about=""', b"kept"]
)
def test_a_blank_more_or_a_part_of_one_is_a_loss(part: bytes) -> None:
    """The half of a thumbnail is no XML that says nothing: it says something else."""
    assert not kept(PACKET, blank(PACKET, part))
    assert not kept(PACKET, blank(without_stale(PACKET), part) if part != OLD else blank(PACKET, part))


@pytest.mark.parametrize(
    "packet",
    [
        PACKET.replace(b'xmlns:xmp="http://ns.adobe.com/xap/1.0/"', b'xmlns:xmp="http://ns.adobe.com/else/"'),
        b"<!DOCTYPE x>" + PACKET,
        PACKET + b"<cut",
        b"<x><!-- <xmp:Thumbnails>x</xmp:Thumbnails> --></x>",
    ],
    ids=["another namespace", "a definition", "no XML", "a comment"],
)
def test_what_is_no_thumbnail_to_a_parser_must_stay(packet: bytes) -> None:
    at = packet.index(b"<xmp:Thumbnails>"), packet.index(b"</xmp:Thumbnails>") + 17
    assert not kept(packet, blank(packet, packet[slice(*at)]))
