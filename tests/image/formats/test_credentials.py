"""Content Credentials sign the source's pixels: they go, and of all else in the file nothing does."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from refine_ops.config import WriteSettings
from refine_ops.image.formats.tiff import first_directory, without_tag
from refine_ops.image.formats.webp import join, riff
from refine_ops.proof.metadata import not_kept
from refine_ops.proof.verify import VerifyError, verify
from tests.support.chain import ChainResult, refine
from tests.support.made_files import exif_block, jpeg, picture, png, tiff, webp, with_chunks, with_segments

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)
MANIFEST_STORE = bytes.fromhex("6332706100110010800000aa00389b71")
OTHER_BOX = bytes.fromhex("785e4b2f00110010800000aa00389b71")
PROOF = b"urn:c2pa:signed-by-a-camera" * 40


def jumbf(kind: bytes, label: bytes, content: bytes) -> bytes:
    description = kind + b"\x03" + label + b"\0"
    jumd = struct.pack(">I", 8 + len(description)) + b"jumd" + description
    body = jumd + struct.pack(">I", 8 + len(content)) + b"cbor" + content
    return struct.pack(">I", 8 + len(body)) + b"jumb" + body


BOXES = jumbf(MANIFEST_STORE, b"c2pa", PROOF)
STRANGER = jumbf(OTHER_BOX, b"view-360", b"a panorama's own box" * 9)


def app11(box: bytes, instance: int, piece: int = 400) -> list[tuple[int, bytes]]:
    """A box over several segments, each with the box's header."""
    head, rest = box[:8], box[8:]
    pieces = [rest[at : at + piece] for at in range(0, len(rest), piece)]
    return [
        (0xEB, b"JP" + struct.pack(">HI", instance, number) + head + part)
        for number, part in enumerate(pieces, start=1)
    ]


def signed_jpeg(*, wide: bool = False) -> bytes:
    box = struct.pack(">I", 1) + b"jumb" + struct.pack(">Q", len(BOXES) + 8) + BOXES[8:] if wide else BOXES
    segments = [(0xE1, b"Exif\0\0" + exif_block(1)), *app11(STRANGER, 3), *app11(box, 7), (0xFE, b"kept")]
    return with_segments(jpeg(RGB, "420"), *segments, (0xEB, b"HDR_RI ver=11"), trailing=b"gain map")


def signed_webp() -> bytes:
    parts = riff(webp(RGB, True, exif=exif_block(1)), "x")
    return join([*parts.items[:-1], (b"C2PA", BOXES), parts.items[-1]])


def signed_tiff(rows: int = 16, *, big_endian: bool = False) -> bytes:
    """Written by hand: tifffile knows no such tag. The tag is the last but one, its values are at the end."""
    plain = tiff(RGB[:rows], "zlib", big_endian=big_endian)
    order = ">" if big_endian else "<"
    (start,) = struct.unpack_from(order + "I", plain, 4)
    (count,) = struct.unpack_from(order + "H", plain, start)
    entries = [plain[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    body = plain + b"\0" * (len(plain) % 2)
    entries.append(struct.pack(order + "HHII", 52545, 7, len(BOXES), len(body)))
    entries.append(struct.pack(order + "HHII", 60000, 4, 1, 77))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    body += BOXES + b"\0" * (len(BOXES) % 2)
    return body[:4] + struct.pack(order + "I", len(body)) + body[8:] + directory


SIGNED: dict[str, Callable[[], bytes]] = {
    "jpeg": signed_jpeg,
    "jpeg, 64-bit length": lambda: signed_jpeg(wide=True),
    "png": lambda: with_chunks(png(RGB), (b"tEXt", b"Title\0kept"), (b"caBX", BOXES), (b"eXIf", exif_block(1))),
    "webp": signed_webp,
    "tiff of several strips": lambda: signed_tiff(64),
    "tiff of one strip": lambda: signed_tiff(16),
    "big-endian tiff": lambda: signed_tiff(64, big_endian=True),
}


def proven(done: ChainResult, data: bytes) -> None:
    verify(done.source, data, done.regions, done.rules)


def refined(kind: str, settings: WriteSettings | None = None) -> ChainResult:
    box = (30, 3, 44, 12) if kind == "tiff of one strip" else BOX
    return refine(SIGNED[kind](), [box], settings)


@pytest.mark.parametrize("kind", SIGNED)
def test_no_byte_of_a_credential_is_left_and_all_else_is_kept(kind: str) -> None:
    done = refined(kind)
    data, output = SIGNED[kind](), done.encoded.data
    for trace in (b"c2pa", b"signed-by-a-camera", MANIFEST_STORE, b"caBX", b"C2PA"):
        assert trace not in output
    assert (BOXES[200:300] in data) or kind.startswith("jpeg")
    assert done.proof.credentials_removed
    assert done.proof.metadata_equal
    assert not_kept(data, output) == ()
    for kept in (b"A. Photographer", b"kept", b"gain map", b"HDR_RI", b"panorama's own box"):
        assert data.count(kept) == output.count(kept)


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_tiff_keeps_its_other_tags(big_endian: bool) -> None:
    data = signed_tiff(64, big_endian=big_endian)
    before, after = first_directory(data, "x")[0], first_directory(without_tag(data, 52545), "x")[0]
    assert 52545 not in after.tags
    assert {k: v.raw for k, v in before.tags.items() if k != 52545} == {k: v.raw for k, v in after.tags.items()}
    assert without_tag(tiff(RGB), 52545) == tiff(RGB)


@pytest.mark.parametrize("target", ["png", "webp-lossless"])
def test_a_converted_file_says_so_too(target: str) -> None:
    done = refined("jpeg", WriteSettings(output_format=target))
    assert b"c2pa" not in done.encoded.data
    assert done.proof.credentials_removed


def test_a_file_without_credentials_has_lost_none() -> None:
    for data in (jpeg(RGB), png(RGB), webp(RGB, True), tiff(RGB), with_segments(jpeg(RGB), *app11(STRANGER, 1))):
        done = refine(data, [BOX])
        assert not done.proof.credentials_removed
        assert data.count(b"panorama") == done.encoded.data.count(b"panorama")


def test_the_proof_accepts_this_removal_and_no_other() -> None:
    done = refined("jpeg")
    output = done.encoded.data
    segment = b"".join(struct.pack(">BBH", 0xFF, m, len(p) + 2) + p for m, p in app11(STRANGER, 3))
    assert segment in output
    with pytest.raises(VerifyError) as lost:
        proven(done, output.replace(segment, b""))
    kept = b"".join(struct.pack(">BBH", 0xFF, m, len(p) + 2) + p for m, p in app11(BOXES, 7))
    with pytest.raises(VerifyError, match="Content Credentials were left") as left:
        proven(done, output[:2] + kept + output[2:])
    assert lost.value.reason == left.value.reason == "verify.metadata_changed"


def test_a_png_that_loses_another_chunk_is_caught_beside_its_credentials() -> None:
    done = refined("png")
    text = b"tEXtTitle\0kept"
    at = done.encoded.data.index(text) - 4
    with pytest.raises(VerifyError, match="tEXt"):
        proven(done, done.encoded.data[:at] + done.encoded.data[at + 4 + len(text) + 4 :])


def test_credentials_that_are_cut_short_are_no_reason_to_fail() -> None:
    """A box that does not say what it is stays where it is, as any unknown segment does."""
    data = with_segments(jpeg(RGB), (0xEB, b"JP"), (0xEB, b"JP\0\1\0\0\0\1" + BOXES[:20]))
    assert not refine(data, [BOX]).proof.credentials_removed
