"""What is refused and why; what the model and the regions see."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import read
from tests.support.chain import LIMITS
from tests.support.made_files import (
    exif_block,
    jpeg,
    odd_jpeg,
    palette_png,
    picture,
    png,
    png_chunk,
    tiff,
    webp,
    wide_profile,
    with_chunks,
    with_segments,
)

RGB = picture(np.random.default_rng(3), 60, 44)
JPEG, PNG = jpeg(RGB), png(RGB)


def animated(kind: str) -> bytes:
    out = BytesIO()
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


def frame_marker(marker: int) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return JPEG[:at] + bytes([0xFF, marker]) + JPEG[at + 2 :]


def huge_png() -> bytes:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return PNG[:8] + png_chunk(b"IHDR", head) + PNG[33:]


REFUSED = {
    "empty": (b"", "image.empty"),
    "text": (b"not an image at all", "image.not_an_image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(99), "image.truncated"),
    "cut jpeg": (JPEG[: len(JPEG) // 2], "image.truncated"),
    "jpeg header alone": (JPEG[:40], "image.truncated"),
    "cut png": (PNG[:-40], "image.truncated"),
    "flipped png": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "image.truncated"),
    "cut 16-bit png": (png(RGB.astype(np.uint16) * 257)[:-60], "image.truncated"),
    "cut webp": (webp(RGB, True)[:-10], "image.truncated"),
    "cut tiff": (tiff(RGB)[:-4000], "image.truncated"),
    "arithmetic jpeg": (frame_marker(0xC9), "image.unsupported"),
    "lossless jpeg": (frame_marker(0xC3), "image.unsupported"),
    "multi-picture jpeg": (with_segments(JPEG, (0xE2, b"MPF\0" + bytes(40))), "image.multi_frame"),
    "apng": (animated("PNG"), "image.multi_frame"),
    "animated webp": (animated("WEBP"), "image.multi_frame"),
    "two-page tiff": (animated("TIFF"), "image.multi_frame"),
    "decompression bomb": (huge_png(), "image.too_large"),
    "cmyk profile in rgb": (
        with_segments(odd_jpeg(RGB, "cmyk"), (0xE2, b"ICC_PROFILE\0\x01\x01" + wide_profile())),
        "image.bad_profile",
    ),
    "broken profile": (with_segments(JPEG, (0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(200))), "image.bad_profile"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_file_and_the_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ItemError, match=r"/shop/a\.jpg") as caught:
        read.decode(data, name="/shop/a.jpg", limits=LIMITS)
    assert caught.value.reason == reason


def test_limits_are_the_callers() -> None:
    with pytest.raises(ItemError) as pixels:
        read.decode(JPEG, name="a", limits=ImageLimits(max_pixels=60 * 44 - 1))
    with pytest.raises(ItemError) as size:
        read.decode(JPEG, name="a", limits=ImageLimits(max_bytes=len(JPEG) - 1))
    assert pixels.value.reason == size.value.reason == "image.too_large"
    read.decode(JPEG, name="a", limits=ImageLimits(max_pixels=60 * 44, max_bytes=len(JPEG)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_view_is_upright_as_pillow_turns_it(orientation: int) -> None:
    data = with_segments(JPEG, (0xE1, b"Exif\0\0" + exif_block(orientation)))
    source = read.decode(data, name="a", limits=LIMITS)
    assert np.array_equal(source.rgb, np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data)))))
    assert source.size == (source.rgb.shape[1], source.rgb.shape[0])
    assert not source.rgb.flags.writeable


def test_transparency_shows_the_matte() -> None:
    alpha = np.zeros((*RGB.shape[:2], 1), np.uint8)
    alpha[:, 30:] = 255
    data = png(np.concatenate([RGB, alpha], axis=2))
    source = read.decode(data, name="a", limits=LIMITS, matte=(10, 20, 30))
    assert (source.rgb[:, :30] == (10, 20, 30)).all()
    assert np.array_equal(source.rgb[:, 30:], RGB[:, 30:])


def test_16_bits_are_kept_beside_the_8_bit_view() -> None:
    deep = np.minimum(RGB, 254).astype(np.uint16) * 257 + 40
    for data in (png(deep), tiff(deep), tiff(deep, "zlib", predictor=True, big_endian=True)):
        source = read.decode(data, name="a", limits=LIMITS)
        assert np.array_equal(source.native.samples, deep)
        assert np.array_equal(source.rgb, np.minimum(RGB, 254))


def test_wide_gamut_is_converted_to_srgb() -> None:
    """Adobe RGB's pure green lies outside sRGB: red clips to 0, as any colour-managed viewer shows it."""
    green = np.zeros((8, 8, 3), np.uint8)
    green[..., 1] = 200
    grey = np.full((8, 8, 3), 128, np.uint8)
    data = png(np.concatenate([green, grey]))
    import zlib

    source = read.decode(
        with_chunks(data, (b"iCCP", b"p\0\0" + zlib.compress(wide_profile()))), name="a", limits=LIMITS
    )
    assert source.rgb[0, 0, 0] == 0
    assert source.rgb[0, 0, 1] >= 199
    assert np.abs(source.rgb[12, 0].astype(int) - 128).max() <= 2


def test_one_bit_is_no_picture_to_edit() -> None:
    out = BytesIO()
    Image.fromarray(RGB[..., 0] > 99).save(out, "PNG")
    with pytest.raises(ItemError, match="1, 2 or 4 grey bits"):
        read.decode(out.getvalue(), name="m", limits=LIMITS)


def test_palette_is_looked_up() -> None:
    data = palette_png(RGB, 32, 8)
    source = read.decode(data, name="a", limits=LIMITS)
    assert np.array_equal(source.rgb, np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_a_profile_chunk_that_unpacks_to_gigabytes_is_refused_in_bounded_memory() -> None:
    import zlib

    bomb = zlib.compress(bytes(1 << 26), 9)
    with pytest.raises(ItemError) as caught:
        read.decode(with_chunks(PNG, (b"iCCP", b"p\0\0" + bomb)), name="a", limits=LIMITS)
    assert caught.value.reason == "image.bad_profile"
