"""One codec per format: what every one of them keeps to, and how often a file is taken apart."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from refine_ops.errors import ItemError
from refine_ops.image import read
from refine_ops.image.formats import exif
from refine_ops.image.formats import jpeg as jpeg_segments
from refine_ops.image.formats import png as png_chunks
from refine_ops.image.formats import tiff as tiff_directory
from refine_ops.image.formats import webp as webp_chunks
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.formats.table import CODECS, MEDIA_SUFFIX, SUPPORTED, header_pixels, sniff
from tests.support.chain import LIMITS, refine
from tests.support.made_files import exif_block, jpeg, palette_png, picture, png, tiff, webp, with_chunks, with_segments

RGB = picture(np.random.default_rng(11), 80, 64)
BOX = (30, 20, 44, 33)
FILES = {
    "jpeg": jpeg(RGB, "420"),
    "png": png(RGB),
    "png palette": palette_png(RGB, 64, 8),
    "webp": webp(RGB, True, exif=exif_block(1)),
    "tiff": tiff(RGB, "zlib"),
}
PARSERS = {
    "jpeg": (jpeg_segments, "layout"),
    "png": (png_chunks, "chunks"),
    "webp": (webp_chunks, "riff"),
    "tiff": (tiff_directory, "directory"),
}


@pytest.mark.parametrize("kind", PARSERS)
def test_a_file_is_taken_apart_once_and_its_result_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From decoding to the proof: the source is parsed when it is read, the published bytes when they are judged."""
    module, name = PARSERS[kind]
    parse, seen = getattr(module, name), list[bytes]()

    def counted(data: bytes, called: str) -> object:
        seen.append(data)
        return parse(data, called)

    for codec in (jpeg_segments, png_chunks, webp_chunks, tiff_directory, *_codec_modules()):
        if getattr(codec, name, None) is parse:
            monkeypatch.setattr(codec, name, counted)
    done = refine(FILES[kind], [BOX])
    whole = [data for data in seen if data in (FILES[kind], done.encoded.data)]
    assert whole == [FILES[kind], done.encoded.data]


def _codec_modules() -> list[object]:
    import sys

    return [sys.modules[codec.__module__] for codec in CODECS.values()]


@pytest.mark.parametrize("kind", FILES)
def test_the_table_says_what_a_file_is(kind: str) -> None:
    data, name = FILES[kind], kind.split()[0]
    assert sniff(data) == name
    assert read.decode(data, name="a", limits=LIMITS).file.format == name
    assert header_pixels(data) == 80 * 64
    with Image.open(BytesIO(data)) as image:
        assert MEDIA_SUFFIX[sniff(data) or "png"] in Image.registered_extensions()
        assert image.format == name.upper()
    assert name.upper() in SUPPORTED.upper()


PLAIN = [(d, c) for d in (np.bool_, np.uint8, np.uint16) for c in range(5)]
PLAIN = [(d, c) for d, c in PLAIN if not (d is np.bool_ and c > 1) and (d, c) != (np.uint16, 2)]


@pytest.mark.parametrize("level", [None, 1, 4])
@pytest.mark.parametrize(("depth", "channels"), PLAIN)
def test_one_encoder_writes_every_plain_png(level: int | None, depth: type, channels: int) -> None:
    four = np.dstack([RGB, RGB[..., :1]])
    image = four[..., 0] if channels == 0 else four[..., :channels]
    image = image > 99 if depth is np.bool_ else image.astype(depth) * (257 if depth is np.uint16 else 1)
    shown = CODECS["png"].parse(encode_png(image, level), "a").decode(LIMITS).samples
    expected = image.astype(np.uint8) * 255 if depth is np.bool_ else image
    assert np.array_equal(shown.reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("size", [0, 1, 5, 11, 20, 40, 90])
def test_every_codec_refuses_a_stump_and_names_the_file(kind: str, size: int) -> None:
    with pytest.raises(ItemError, match=r"shop/a"):
        CODECS[kind.split()[0]].parse(FILES[kind][:size], "shop/a").decode(LIMITS)


def _turned(kind: str, orientation: int) -> bytes:
    block = exif_block(orientation)
    makers: dict[str, Callable[[], bytes]] = {
        "jpeg": lambda: with_segments(FILES["jpeg"], (0xE1, b"Exif\0\0" + block)),
        "png": lambda: with_chunks(FILES["png"], (b"eXIf", block)),
        "webp": lambda: webp(RGB, True, exif=block),
        "tiff": lambda: tiff(RGB, "zlib", orientation=orientation, big_endian=orientation % 2 == 0),
    }
    return makers[kind]()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 0, 9])
def test_every_format_reads_the_orientation_alike(kind: str, orientation: int) -> None:
    native = read.decode(_turned(kind, orientation), name="a", limits=LIMITS).native
    assert native.orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_a_whole_tiff_is_an_exif_block() -> None:
    assert exif.orientation(_turned("tiff", 6)) == 6
    assert exif.orientation(exif.with_orientation_1(_turned("tiff", 6))) == 1
