"""Paste in the file's own colours and depth."""

import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from refine_ops.config import WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image import focus, paste, read, write
from tests.support.chain import LIMITS, plan, refine
from tests.support.made_files import (
    jpeg,
    odd_jpeg,
    palette_png,
    picture,
    pillow_samples,
    png,
    webp,
    wide_profile,
    with_chunks,
)

RGB = picture(np.random.default_rng(9), 96, 72)
BOX = (30, 20, 60, 50)
INSIDE = np.s_[BOX[1] : BOX[3], BOX[0] : BOX[2]]
WIDE = (b"iCCP", b"p\0\0" + zlib.compress(wide_profile()))


def pasted(data: bytes, change: float | np.ndarray, matte: tuple[int, int, int] = (255, 255, 255)) -> paste.Canvas:
    """The box replaced by what the model saw there plus `change`, at native resolution, nothing resampled."""
    source = read.decode(data, name="a", limits=LIMITS, matte=matte)
    canvas = paste.Canvas.from_source(source)
    mask = np.zeros((source.height, source.width), bool)
    mask[INSIDE] = True
    crop = plan(mask)
    patch = np.clip(focus.crop_of(source.rgb, crop.crop) / np.float32(255) + np.float32(change), 0, 1)
    canvas.paste(crop, patch.astype(np.float32), paste.blend_mask(focus.crop_of(mask, crop.crop)))
    return canvas


KINDS = {
    "rgb": png(RGB),
    "grey": png(RGB[..., :1]),
    "16 bit": png(RGB.astype(np.uint16) * 257 + 77),
    "wide": with_chunks(png(RGB), WIDE),
    "wide 16": with_chunks(png(RGB.astype(np.uint16) * 251 + 33), WIDE),
    "alpha": png(np.concatenate([RGB, RGB[..., 1:2] | 1], axis=2)),
    "cmyk": odd_jpeg(RGB, "cmyk", quality=95),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_changes_nothing_changes_nothing(kind: str) -> None:
    """Also where the file holds more than 8-bit sRGB can show: low bits, wide gamut, ink under black."""
    canvas = pasted(KINDS[kind], 0.0)
    before = read.decode(KINDS[kind], name="a", limits=LIMITS).native.samples
    off = np.abs(canvas.samples.astype(int) - before).max()
    assert off <= (1 if before.dtype == np.uint16 else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_looks_as_the_patch(kind: str) -> None:
    """In sRGB, decoded again, the region is the patch to 2/255 on average (grey: its luma)."""
    data = KINDS[kind]
    canvas = pasted(data, 0.2)
    before = read.decode(data, name="a", limits=LIMITS).rgb.astype(float)
    wanted = np.clip(before + 51, 0, 255)
    if kind == "alpha":
        # Over white, a nearly transparent pixel cannot be darker than its alpha lets it be; it can always be lighter.
        assert (np.abs(canvas.rgb[INSIDE] - wanted[INSIDE]) <= 2).mean() > 0.99
    else:
        assert np.abs(canvas.rgb[INSIDE] - wanted[INSIDE]).mean() < 2


def test_16_bits_inside_are_more_than_8() -> None:
    """A gentle slope keeps its steps: more levels inside than 8 bits could hold, and no band wider than theirs."""
    source = png(np.full((72, 96, 3), 20_000, np.uint16))
    slope = np.linspace(0, 0.02, 96, dtype=np.float32)[None, :, None]
    source_ = read.decode(source, name="a", limits=LIMITS)
    canvas = paste.Canvas.from_source(source_)
    mask = np.ones((72, 96), bool)
    crop = plan(mask)
    canvas.paste(crop, np.broadcast_to(0.5 + slope, (72, 96, 3)).astype(np.float32), paste.blend_mask(mask))
    assert len(np.unique(canvas.samples[..., 0])) == 96
    for column in (0, 50, 95):
        assert abs(int(canvas.samples[10, column, 0]) - round((0.5 + slope[0, column, 0]) * 65535)) <= 1


def test_cmyk_keeps_its_black_where_the_colour_can_be_reached() -> None:
    ink = np.zeros((72, 96, 4), np.uint8)
    ink[...] = (40, 90, 20, 120)
    image = Image.frombytes("CMYK", (96, 72), ink.tobytes())
    out = BytesIO()
    image.save(out, "TIFF")
    canvas = pasted(out.getvalue(), -0.05)
    assert (canvas.samples[INSIDE][..., 3] == 120).all()
    assert (canvas.samples[INSIDE][..., :3] > (40, 90, 20)).all()


def test_fully_transparent_pixels_and_alpha_are_left_alone() -> None:
    alpha = np.full((72, 96, 1), 255, np.uint8)
    alpha[:, 45:] = 0
    data = png(np.concatenate([RGB, alpha], axis=2))
    canvas = pasted(data, 0.3)
    assert np.array_equal(canvas.samples[:, 45:], np.concatenate([RGB, alpha], axis=2)[:, 45:])
    assert np.array_equal(canvas.samples[..., 3], alpha[..., 0])
    assert (canvas.samples[INSIDE][:, :15, :3] != RGB[INSIDE][:, :15]).any()


def test_later_regions_see_earlier_results() -> None:
    done = refine(png(RGB), [BOX])
    again = refine(done.encoded.data, [(50, 40, 80, 60)])
    both = refine(png(RGB), [BOX, (50, 40, 80, 60)])
    assert np.array_equal(both.canvas.rgb[INSIDE][:10, :10], again.canvas.rgb[INSIDE][:10, :10])
    assert both.canvas.support.sum() > done.canvas.support.sum()


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "patch.not_finite"), (np.inf, "patch.not_finite"), (0.0, "patch.blank")]
)
def test_broken_patches_are_refused(value: float, reason: str) -> None:
    source = read.decode(png(RGB), name="a", limits=LIMITS)
    mask = np.zeros((72, 96), bool)
    mask[INSIDE] = True
    crop = plan(mask)
    height, width = focus.crop_of(mask, crop.crop).shape
    patch = np.full((height, width, 3), value, np.float32)
    with pytest.raises(ItemError) as caught:
        paste.Canvas.from_source(source).paste(crop, patch, paste.blend_mask(focus.crop_of(mask, crop.crop)))
    assert caught.value.reason == reason


def test_palette_takes_nearest_entries_or_refuses() -> None:
    data = palette_png(RGB, 256, 8)
    canvas = pasted(data, 0.02)
    output = write.encode(read.decode(data, name="a", limits=LIMITS), canvas, WriteSettings()).data
    assert Image.open(BytesIO(output)).mode == "P"
    two = palette_png(np.repeat(RGB[..., :1] // 128 * 255, 3, axis=2), 2, 1)
    with pytest.raises(ItemError) as caught:
        refine(two, [BOX])
    assert caught.value.reason == "palette.too_coarse"


def test_a_colour_key_is_never_hit_by_accident() -> None:
    """RGB with one transparent colour (tRNS): an edited pixel of just that colour would turn transparent."""
    flat = np.full((72, 96, 3), 100, np.uint8)
    flat[::2, ::2] = 90
    key = b"".join(int(v).to_bytes(2, "big") for v in (151, 151, 151))
    data = with_chunks(png(flat), (b"tRNS", key))
    source = read.decode(data, name="a", limits=LIMITS)
    canvas = pasted(data, 51 / 255)
    output = write.encode(source, canvas, WriteSettings()).data
    assert read.decode(output, name="b", limits=LIMITS).native.samples[..., 3].min() == 255


@pytest.mark.parametrize("target", ["png", "webp-lossless"])
@pytest.mark.parametrize("kind", ["rgb", "grey", "alpha", "wide"])
def test_conversion_keeps_every_sample(kind: str, target: str) -> None:
    source = {"wide": webp(RGB, True, icc_profile=wide_profile())}.get(kind, KINDS[kind])
    done = refine(
        source if target != "png" or kind == "wide" else jpeg(RGB, "444"), [BOX], WriteSettings(output_format=target)
    )
    assert done.encoded.format == target.split("-")[0]
    outside = ~done.canvas.support
    before, after = done.source.rgb, read.decode(done.encoded.data, name="b", limits=LIMITS).rgb
    assert np.array_equal(before[outside], after[outside])
    assert Image.open(BytesIO(done.encoded.data)).info.get("icc_profile") == done.source.native.icc


def test_conversions_that_would_lose_something_are_refused() -> None:
    for data, target in ((KINDS["16 bit"], "webp-lossless"), (KINDS["cmyk"], "png")):
        with pytest.raises(ItemError) as caught:
            refine(data, [BOX], WriteSettings(output_format=target))
        assert caught.value.reason == "image.unsupported"
    with pytest.raises(ItemError) as lossy:
        refine(webp(RGB, False), [BOX], WriteSettings(webp_lossy="refuse"))
    assert lossy.value.reason == "webp.lossy"


def test_webp_keeps_colour_under_transparent_pixels() -> None:
    four = np.concatenate([RGB, np.zeros((72, 96, 1), np.uint8)], axis=2)
    four[20:40, 30:50, 3] = 255
    output = refine(webp(four, True), [(32, 22, 44, 36)]).encoded.data
    assert np.array_equal(pillow_samples(output)[50:], four[50:])
