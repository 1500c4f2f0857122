"""Formats that are read and become PNG or lossless WebP: not a bit less, or a refusal that names the way out."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from refine_ops.config import RefineSettings, WriteSettings
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.listing import plan_of
from refine_ops.errors import ItemError
from refine_ops.image import read
from refine_ops.image.formats.native import SUFFIXES
from refine_ops.image.formats.table import CODECS, header_pixels
from refine_ops.opened import open_item
from refine_ops.records import Item, Region
from tests.support.chain import LIMITS, near, refine
from tests.support.made_files import exif_block, picture, pillow_samples, wide_profile

pillow_heif.register_heif_opener()

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)
ITEM = Item("a", "a.img", "a.img", (Region("r", "Refine it", box=BOX),), row=0)


def saved(kind: str, image: Image.Image, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PLAIN = Image.fromarray(RGB)
CLEAR = Image.fromarray(np.dstack([RGB, np.broadcast_to(np.arange(80, dtype=np.uint8) * 3, (64, 80))]))
GREY = PLAIN.convert("L")
FILES = {
    "bmp": saved("BMP", PLAIN),
    "bmp, grey": saved("BMP", GREY),
    "bmp, palette": saved("BMP", PLAIN.quantize(40)),
    "bmp, one bit": saved("BMP", PLAIN.convert("1")),
    "gif": saved("GIF", PLAIN.quantize(100)),
    "gif, transparent": saved("GIF", PLAIN.quantize(60), transparency=3),
    "avif": saved("AVIF", PLAIN, quality=80),
    "heic": saved("HEIF", PLAIN, quality=80),
    "heic with alpha": saved("HEIF", CLEAR, quality=80),
    "heic, grey": saved("HEIF", GREY, quality=80),
    "heic of another profile": saved("HEIF", PLAIN, icc_profile=wide_profile()),
    "heic of the general kind": saved("HEIF", PLAIN, quality=80).replace(b"ftypheic", b"ftypmif1", 1),
    "avif with alpha": saved("AVIF", CLEAR, quality=80),
    "avif of another profile": saved("AVIF", PLAIN, icc_profile=wide_profile()),
    "jpeg 2000": saved("JPEG2000", PLAIN),
    "jpeg 2000, grey": saved("JPEG2000", GREY),
    "jpeg 2000, alpha": saved("JPEG2000", CLEAR),
    "jpeg 2000, a bare stream": saved("JPEG2000", PLAIN, no_jp2=True),
}


def shown(data: bytes) -> np.ndarray:
    """RGBA as Pillow shows it: what a file of another kind must equal."""
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("target", ["png", "webp-lossless"])
@pytest.mark.parametrize("kind", FILES)
def test_converted_losslessly_where_asked(kind: str, target: str) -> None:
    done = refine(FILES[kind], [BOX], WriteSettings(output_format=target))
    output = done.encoded.data
    assert output[:4] == {"png": b"\x89PNG", "webp-lossless": b"RIFF"}[target]
    before, after = shown(FILES[kind]), shown(output)
    assert np.array_equal(before[~near([BOX], 80, 64)], after[~near([BOX], 80, 64)])
    assert not np.array_equal(before, after)
    assert done.proof.changed_outside_px == 0
    with Image.open(BytesIO(output)) as image:
        assert image.info.get("icc_profile") == done.source.native.icc


@pytest.mark.parametrize("kind", FILES)
def test_not_edited_in_place_and_the_remedy_is_named_before_the_model_runs(kind: str) -> None:
    with pytest.raises(ItemError, match=r"set write\.output_format to 'png'") as refused:
        open_item(ITEM, {"a.img": FILES[kind]}, RefineSettings())
    assert refused.value.reason == "image.unsupported"


@pytest.mark.parametrize("kind", ["avif", "heic", "jpeg 2000", "gif", "bmp"])
def test_a_stump_is_refused(kind: str) -> None:
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ItemError) as refused:
            read.decode(FILES[kind][: int(len(FILES[kind]) * share)], name="x", limits=LIMITS)
        assert refused.value.reason == "image.truncated"


def test_several_frames_are_refused() -> None:
    frames = [PLAIN, Image.fromarray(255 - RGB)]
    for kind in ("GIF", "AVIF", "HEIF"):
        data = saved(kind, frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(ItemError, match="give one") as refused:
            read.decode(data, name="x", limits=LIMITS)
        assert refused.value.reason == "image.multi_frame"


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_a_turned_picture_is_written_upright_with_its_metadata(kind: str) -> None:
    data = saved(kind, PLAIN, exif=b"Exif\0\0" + exif_block(6))
    done = refine(data, [BOX], WriteSettings(output_format="png"))
    assert (done.source.width, done.source.height) == (64, 80)
    assert pillow_samples(done.encoded.data).shape[:2] == (80, 64)
    assert b"A. Photographer" in done.encoded.data


def patched(data: bytes, mark: bytes, offset: int, value: int) -> bytes:
    at = data.index(mark) + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


def deep_heic() -> bytes:
    out = BytesIO()
    pillow_heif.from_bytes("RGB;16", (80, 64), (RGB.astype(np.uint16) * 257).tobytes()).save(out)
    return out.getvalue()


@pytest.mark.parametrize(
    "deep",
    [
        patched(FILES["avif"], b"av1C", 6, FILES["avif"][FILES["avif"].index(b"av1C") + 6] | 0x40),
        deep_heic(),
        saved("HEIF", PLAIN, color_primaries=9, transfer_characteristics=16),
        patched(FILES["jpeg 2000"], b"\xff\x4f\xff\x51", 42, 11),
        patched(FILES["jpeg 2000"], b"\xff\x4f\xff\x51", 42, 0x87),
        patched(FILES["jpeg 2000"], b"colr\1\0\0", 10, 12),
    ],
)
def test_what_pillow_would_read_with_fewer_bits_or_other_colours_is_refused(deep: bytes) -> None:
    with pytest.raises(ItemError, match="convert it to a 16-bit PNG") as refused:
        read.decode(deep, name="x", limits=LIMITS)
    assert refused.value.reason == "image.unsupported"


def test_sixteen_bits_of_grey_stay_sixteen() -> None:
    deep = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80) * 12
    data = saved("JPEG2000", Image.fromarray(deep))
    assert np.array_equal(read.decode(data, name="x", limits=LIMITS).native.samples[..., 0], deep)


def test_a_stream_that_is_larger_than_its_header_says_is_not_decoded() -> None:
    data = FILES["jpeg 2000"]
    at = data.index(b"\xff\x4f\xff\x51") + 8
    with pytest.raises(ItemError) as refused:
        read.decode(data[:at] + b"\0\1\0\0\0\1\0\0" + data[at + 8 :], name="x", limits=LIMITS)
    assert refused.value.reason == "image.too_large"


def test_as_references_and_masks_they_are_looked_at() -> None:
    for kind in ("bmp", "gif", "avif", "heic", "jpeg 2000"):
        assert read.look(FILES[kind], "x", LIMITS, several=True).samples.shape[:2] == (64, 80)


def test_a_name_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    small = LIMITS.model_copy(update={"max_pixels": 100})
    for kind in ("bmp", "gif", "avif", "heic", "jpeg 2000"):
        with pytest.raises(ItemError) as refused:
            read.decode(FILES[kind], name="x", limits=small)
        assert refused.value.reason == "image.too_large"


def test_without_the_extra_a_heic_names_it_and_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ItemError, match=r"pip install 'refine-ops\[heic\]'") as refused:
        read.decode(FILES["heic"], name="x", limits=LIMITS)
    assert refused.value.reason == "image.unsupported"
    assert header_pixels(FILES["heic"]) == 0


@pytest.mark.parametrize("kind", FILES)
def test_a_header_says_how_large_it_is(kind: str) -> None:
    assert header_pixels(FILES[kind]) == 64 * 80


def test_each_format_s_own_suffix_is_among_those_that_folders_are_searched_for() -> None:
    assert set(SUFFIXES) == set(CODECS)
    assert all(codec.suffix in SUFFIXES[kind] for kind, codec in CODECS.items())


def test_a_phones_pictures_are_looked_through_as_all_others(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.jpg", "c.avif", "notes.txt"):
        (tmp_path / name).write_bytes(FILES["heic"])
    listed = plan_of(DetectRegionsConfig(source=str(tmp_path), out=str(tmp_path / "out")))
    assert [Path(uri).name for uri in listed["image"].to_pylist()] == ["a.HEIC", "b.jpg", "c.avif"]
