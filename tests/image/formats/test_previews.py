"""What would show the picture as it was: Photoshop's thumbnail; and an orientation that hides in a text."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from refine_ops.config import WriteSettings
from refine_ops.image import read
from refine_ops.image.formats.previews.photoshop import split, without_thumbnails
from refine_ops.image.formats.tiff import first_directory, with_tag
from refine_ops.proof.verify import VerifyError, verify
from tests.support.chain import LIMITS, refine
from tests.support.made_files import exif_block, jpeg, picture, png, tiff, with_chunks, with_segments

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)
OLD = jpeg(RGB[::2, ::2], "420")


def resource(number: int, data: bytes, name: bytes = b"") -> bytes:
    counted = bytes([len(name)]) + name
    counted += b"\0" * (len(counted) % 2)
    return b"8BIM" + struct.pack(">H", number) + counted + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)


def thumbnail(data: bytes) -> bytes:
    return struct.pack(">6IHH", 1, 40, 32, 120, 3840, len(data), 24, 1) + data


IPTC = resource(0x0404, b"\x1c\x02\x50\x00\x06Author!")
PATHS = resource(0x07D0, b"a clipping path", b"Path 1")
RESOURCES = IPTC + resource(0x040C, thumbnail(OLD)) + resource(0x0409, thumbnail(OLD)) + PATHS


def with_resources(held: bytes) -> bytes:
    return with_segments(jpeg(RGB, "420"), (0xED, b"Photoshop 3.0\0" + held), (0xED, b"Adobe_CM\0\0"), (0xFE, b"kept"))


def held_in(data: bytes) -> bytes:
    at = data.index(b"Photoshop 3.0\0")
    size = int.from_bytes(data[at - 2 : at], "big")
    return data[at + 14 : at - 2 + size]


def test_a_thumbnail_is_dropped_and_every_other_resource_stays() -> None:
    done = refine(with_resources(RESOURCES), [BOX])
    assert held_in(done.encoded.data) == IPTC + PATHS
    assert OLD not in done.encoded.data
    assert done.proof.metadata_equal
    for kept in (b"Adobe_CM", b"kept"):
        assert kept in done.encoded.data


def test_a_thumbnail_is_made_anew_where_asked() -> None:
    done = refine(with_resources(RESOURCES), [BOX], WriteSettings(thumbnail="refresh"))
    numbers = [number for number, _ in split(held_in(done.encoded.data)) or []]
    assert numbers == [0x0404, 0x040C, 0x07D0]
    at = held_in(done.encoded.data).index(b"\xff\xd8\xff")
    with Image.open(BytesIO(held_in(done.encoded.data)[at:])) as image:
        fresh = np.asarray(image.convert("RGB")).astype(int)
    with Image.open(BytesIO(done.encoded.data)) as image:
        shown = np.asarray(image.resize((40, 32), Image.Resampling.BOX)).astype(int)
    before = RGB[::2, ::2].astype(int)
    inside = np.s_[11:16, 16:21]
    assert np.abs(fresh - shown).mean() < 8
    assert np.abs(fresh[inside] - shown[inside]).mean() < np.abs(fresh[inside] - before[inside]).mean() / 2


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_tiffs_thumbnail_goes_too_and_nothing_moves(big_endian: bool) -> None:
    data = with_tag(tiff(RGB, "zlib", big_endian=big_endian), 34377, RESOURCES, "x")
    done = refine(data, [BOX])
    before, after = (first_directory(d, "x")[0] for d in (data, done.encoded.data))
    assert after.tags[34377].raw == IPTC + PATHS
    assert OLD not in done.encoded.data
    assert done.proof.metadata_equal
    others = [{k: v.raw for k, v in d.tags.items() if k not in (34377, 273, 279)} for d in (before, after)]
    assert others[0] == others[1]
    refreshed = refine(data, [BOX], WriteSettings(thumbnail="refresh")).encoded.data
    numbers = [number for number, _ in split(first_directory(refreshed, "x")[0].tags[34377].raw) or []]
    assert numbers == [0x0404, 0x040C, 0x07D0]
    plain = with_tag(tiff(RGB, "zlib", big_endian=big_endian), 34377, IPTC + PATHS, "x")
    assert first_directory(refine(plain, [BOX]).encoded.data, "x")[0].tags[34377].raw == IPTC + PATHS


@pytest.mark.parametrize("odd", [b"8BIM\x04", RESOURCES[:-9], b"not resources", b"8BIM" + bytes(3), b""])
def test_what_is_no_whole_list_stays_as_it_is(odd: bytes) -> None:
    assert held_in(refine(with_resources(odd), [BOX]).encoded.data) == odd


def test_resources_without_a_thumbnail_stay_byte_for_byte() -> None:
    assert without_thumbnails(IPTC + PATHS) == IPTC + PATHS
    assert held_in(refine(with_resources(IPTC + PATHS), [BOX]).encoded.data) == IPTC + PATHS


def test_the_proof_sees_a_resource_that_is_lost_beside_the_thumbnail() -> None:
    done = refine(with_resources(RESOURCES), [BOX])
    other = done.encoded.data.replace(b"clipping", b"clapping")
    with pytest.raises(VerifyError, match="ed"):
        verify(done.source, other, done.regions, done.rules)


def raw_profile(block: bytes, kind: bytes, packed: bool) -> tuple[bytes, bytes]:
    """As ImageMagick writes it."""
    held = b"Exif\0\0" + block
    digits = held.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{kind.decode()}\n{len(held):8d}\n{lines}\n".encode()
    keyword = b"Raw profile type " + kind + b"\0"
    return (b"zTXt", keyword + b"\0" + zlib.compress(text)) if packed else (b"tEXt", keyword + text)


@pytest.mark.parametrize("kind", [b"exif", b"APP1"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_orientation_in_imagemagicks_text_counts(kind: bytes, packed: bool) -> None:
    data = with_chunks(png(RGB), raw_profile(exif_block(6), kind, packed))
    assert read.decode(data, name="x", limits=LIMITS).native.orientation == 6
    done = refine(data, [(20, 30, 33, 44)])
    assert (done.source.width, done.source.height) == (64, 80)
    assert done.proof.metadata_equal
    converted = refine(data, [(20, 30, 33, 44)], WriteSettings(output_format="webp-lossless"))
    assert b"A. Photographer" in converted.encoded.data


def test_a_chunk_of_its_own_comes_first_and_a_damaged_text_says_nothing() -> None:
    both = with_chunks(png(RGB), raw_profile(exif_block(6), b"exif", True), (b"eXIf", exif_block(3)))
    assert read.decode(both, name="x", limits=LIMITS).native.orientation == 3
    for text in (b"", b"\nexif\n 12\nnothex", b"\nexif\n", b"\nexif\n   4\n41424344"):
        torn = with_chunks(png(RGB), (b"tEXt", b"Raw profile type exif\0" + text))
        assert read.decode(torn, name="x", limits=LIMITS).native.orientation == 1
