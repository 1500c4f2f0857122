"""A refined file says in its XMP that a model made a part of it; whatever else it held it holds as it was."""

import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refine_ops.config import ProvenanceSettings, WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image.formats.table import CODECS, sniff
from refine_ops.image.formats.tiff import first_directory, with_tag
from refine_ops.image.formats.webp import join, riff
from refine_ops.proof import mark as proof
from refine_ops.proof.metadata import not_kept
from refine_ops.proof.verify import VerifyError, verify
from refine_ops.provenance.mark import marked
from refine_ops.provenance.policy import is_marked
from tests.support.chain import ChainResult, refine
from tests.support.made_files import exif_block, jpeg, picture, png, tiff, webp, with_chunks, with_segments

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
VALUE = VOCABULARY + "compositeWithTrainedAlgorithmicMedia"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 <rdf:Description rdf:about="uuid:a &amp; b" xmlns:dc="http://purl.org/dc/elements/1.1/"
   xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" dc:format="a > b"{attribute}>
  <dc:creator><rdf:Seq><rdf:li>Ph\u00f6tographer</rdf:li></rdf:Seq></dc:creator>{element}
 </rdf:Description>
</rdf:RDF></x:xmpmeta>
          <?xpacket end="w"?>"""


def packet(attribute: str = "", element: str = "") -> bytes:
    return PACKET.format(attribute=attribute, element=element).encode()


PACKETS = {
    "none": None,
    "without the statement": packet(),
    "a camera's, as an attribute": packet(attribute=f' I:DigitalSourceType="{VOCABULARY}digitalCapture"'),
    "a camera's, as an element": packet(
        element=f"<I:DigitalSourceType>{VOCABULARY}digitalCapture</I:DigitalSourceType>"
    ),
    "a camera's, as a resource": packet(element=f"<I:DigitalSourceType rdf:resource='{VOCABULARY}digitalCapture'/>"),
    "empty": packet(element="<I:DigitalSourceType></I:DigitalSourceType>"),
    "marked already": packet(attribute=f' I:DigitalSourceType="{VALUE}"'),
}


def jpeg_with(xmp: bytes | None) -> bytes:
    segments = [(0xE1, b"Exif\0\0" + exif_block(1)), (0xE2, b"somebody's"), (0xFE, b"kept")]
    if xmp is not None:
        segments.insert(2, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp))
    return with_segments(jpeg(RGB, "420"), *segments, trailing=b"gain map")


def png_with(xmp: bytes | None, *, compressed: bool = False) -> bytes:
    text = b"XML:com.adobe.xmp\0" + (b"\1\0\0\0" + zlib.compress(xmp or b"") if compressed else bytes(4) + (xmp or b""))
    chunks = [(b"tEXt", b"Title\0kept"), (b"iTXt", b"Comment\0\0\0\0\0kept"), *([(b"iTXt", text)] if xmp else [])]
    return with_chunks(png(RGB), *chunks)


def webp_with(xmp: bytes | None, *, alpha: bool = False, simple: bool = False) -> bytes:
    samples = np.dstack([RGB, RGB[..., 0]]) if alpha else RGB
    if simple:
        coded = riff(webp(samples, True), "x").first(b"VP8L")
        assert coded is not None
        return join([(b"VP8L", coded)])
    return webp(samples, True, exif=exif_block(1), **({"xmp": xmp} if xmp else {}))


def tiff_with(xmp: bytes | None, *, big_endian: bool = False) -> bytes:
    plain = tiff(RGB, "zlib", big_endian=big_endian)
    return plain if xmp is None else with_tag(plain, 700, xmp, "x")


FILES: dict[str, Callable[[bytes | None], bytes]] = {
    "jpeg": jpeg_with,
    "png": png_with,
    "webp": webp_with,
    "webp with alpha": lambda xmp: webp_with(xmp, alpha=True),
    "tiff": tiff_with,
    "big-endian tiff": lambda xmp: tiff_with(xmp, big_endian=True),
}


def statements(data: bytes) -> list[str]:
    """Every DigitalSourceType that a reader who knows nothing of XMP finds in what Pillow reads."""
    with Image.open(BytesIO(data)) as image:
        held = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = held if isinstance(held, str) else held.decode()
    found = re.findall(r"DigitalSourceType(?:>|\s*=\s*[\"']|\s+rdf:resource=[\"'])([^<\"']*)", text)
    return [value for value in found if value.strip()]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("held", PACKETS)
def test_the_statement_is_there_once_and_all_else_is_as_it_was(kind: str, held: str) -> None:
    data = FILES[kind](PACKETS[held])
    done = refine(data, [BOX], mark="iptc")
    output = done.encoded.data
    assert statements(output) == [VALUE]
    assert done.proof.marked
    assert done.proof.metadata_equal
    assert not_kept(data, output) == ()
    assert refine(data, [BOX]).proof.marked is False
    if held == "marked already":
        assert output == refine(data, [BOX]).encoded.data
    file = CODECS[sniff(output)].parse(output, "x")
    if PACKETS[held] is not None:
        assert "Phötographer" in (file.xmp() or b"").decode()
        assert output.count(b"<?xpacket end") == 1
    for kept in (b"A. Photographer", b"kept", b"gain map", b"somebody's"):
        assert data.count(kept) == output.count(kept)


def test_a_picture_that_a_model_made_as_a_whole_stays_one() -> None:
    whole = packet(attribute=f' I:DigitalSourceType="{VOCABULARY}trainedAlgorithmicMedia"')
    assert statements(refine(jpeg_with(whole), [BOX], mark="iptc").encoded.data) == [
        VOCABULARY + "trainedAlgorithmicMedia"
    ]


def test_a_compressed_packet_and_a_plain_webp_are_marked_too() -> None:
    done = refine(png_with(PACKETS["without the statement"], compressed=True), [BOX], mark="iptc")
    assert statements(done.encoded.data) == [VALUE]
    for alpha in (False, True):
        output = refine(webp_with(None, simple=True, alpha=alpha), [BOX], mark="iptc").encoded.data
        assert statements(output) == [VALUE]
        assert output[12:16] == b"VP8X"


@pytest.mark.parametrize("target", ["png", "webp-lossless"])
@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_a_converted_file_is_marked_and_keeps_its_packet(target: str, kind: str) -> None:
    data = FILES[kind](PACKETS["a camera's, as an attribute"])
    output = refine(data, [BOX], WriteSettings(output_format=target), mark="iptc").encoded.data
    assert statements(output) == [VALUE]
    assert "Phötographer".encode() in output


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_tiffs_other_tags_stay_where_readers_find_them(big_endian: bool) -> None:
    data = tiff_with(None, big_endian=big_endian)
    twice = with_tag(with_tag(data, 700, b"first packet", "x"), 700, b"a second, longer packet", "x")
    before, after = first_directory(data, "x"), first_directory(twice, "x")
    assert after[0].tags.pop(700).raw == b"a second, longer packet"
    assert list(after[0].tags) == sorted(after[0].tags)
    assert {k: v.raw for k, v in before[0].tags.items()} == {k: v.raw for k, v in after[0].tags.items()}
    assert before[1] == after[1]
    assert b"first packet" not in twice


@pytest.mark.parametrize(
    "broken",
    [
        packet()[:-60],
        packet().replace(b"</rdf:RDF>", b"</rdf:rdf>"),
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + packet(),
        packet().decode().encode("utf-16"),
        packet(element="<I:DigitalSourceType>a</I:DigitalSourceType><I:DigitalSourceType>b</I:DigitalSourceType>"),
        packet(element="<I:DigitalSourceType><rdf:Bag/></I:DigitalSourceType>"),
        b"\xff\xfe\0",
        b"",
    ],
)
def test_what_cannot_be_marked_is_refused_and_names_the_way_out(broken: bytes) -> None:
    with pytest.raises(ItemError, match=r"mend it, or set provenance\.mark") as refused:
        marked(broken, "x")
    assert refused.value.reason == "provenance.bad_xmp"


def test_a_packet_that_fills_its_segment_has_no_room() -> None:
    with pytest.raises(ItemError, match="shorten it") as refused:
        refine(jpeg_with(packet().ljust(65_450)), [BOX], mark="iptc")
    assert refused.value.reason == "provenance.no_room"


def proven(done: ChainResult, data: bytes) -> None:
    verify(done.source, data, done.regions, done.rules, marked=True)


def test_the_proof_accepts_this_statement_and_no_other_change() -> None:
    done = refine(jpeg_with(PACKETS["without the statement"]), [BOX], mark="iptc")
    output = done.encoded.data
    proven(done, output)
    for old, new in (
        (b"a > b", b"a > c"),
        ("Phö".encode(), "Phä".encode()),
        (b'uuid:a &amp; b" xmlns:dc', b'uuid:a &amp; c" xmlns:dc'),
        (b"kept", b"lost"),
        (VALUE.encode(), VALUE.encode()[:-5] + b"Thing"),
        (VALUE.encode(), (VOCABULARY + "digitalCapture").encode().ljust(len(VALUE))),
    ):
        assert old in output
        with pytest.raises(VerifyError) as caught:
            proven(done, output.replace(old, new, 1))
        assert caught.value.reason in ("verify.metadata_changed", "verify.mark_missing")
    unmarked = refine(jpeg_with(PACKETS["without the statement"]), [BOX]).encoded.data
    with pytest.raises(VerifyError, match="no XMP says"):
        proven(done, unmarked)
    with pytest.raises(VerifyError, match="segments"):
        verify(done.source, output, done.regions, done.rules)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([p for p in PACKETS.values() if p]), st.data())
def test_no_other_byte_of_a_packet_may_change(before: bytes, data: st.DataObject) -> None:
    after = bytearray(marked(before, "x"))
    assert proof.only_marked(before, bytes(after))
    at = data.draw(st.integers(0, len(after) - 1))
    after[at] ^= data.draw(st.integers(1, 255))
    assert not proof.only_marked(before, bytes(after))


def test_an_unchanged_picture_is_not_marked() -> None:
    source = refine(jpeg_with(None), [BOX]).source
    asked = ProvenanceSettings(mark="iptc")
    assert not is_marked(source, source.native.samples.copy(), asked)
    other = source.native.samples.copy()
    other[0, 0, 0] ^= 1
    assert is_marked(source, other, asked)
    assert not is_marked(source, other, ProvenanceSettings())


def test_a_webp_header_says_that_there_is_xmp() -> None:
    output = refine(webp_with(None), [BOX], mark="iptc").encoded.data
    (flags,) = struct.unpack_from("<I", output, 20)
    assert flags & 0x04
