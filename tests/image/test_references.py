"""References as people have them: seen on whatever ground shows them, in whatever layout a library reads."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.read import decode
from refine_ops.image.reference import decode_reference
from tests.support.chain import LIMITS
from tests.support.made_files import exif_block, jpeg, palette_png, picture, png, tiff, webp, with_chunks, with_segments

RGB = picture(np.random.default_rng(3), 64, 48)
BARS = np.zeros((48, 64), bool)
BARS[8:40:6, 8:56], BARS[9:41:6, 8:56] = True, True


def read(data: bytes) -> np.ndarray:
    return decode_reference(data, name="logo.png", limits=LIMITS)


def logo(colour: tuple[int, int, int], second: tuple[int, int, int] | None = None, soft: bool = False) -> bytes:
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3] = colour
    if second is not None:
        rgba[24:, :, :3] = second
    rgba[BARS, 3] = 255
    if soft:
        rgba[1:-1, :, 3] = np.maximum(rgba[1:-1, :, 3], rgba[:-2, :, 3] // 3)
    return png(rgba)


@pytest.mark.parametrize(
    ("colour", "second", "ground"),
    [
        ((255, 255, 255), None, 0),
        ((240, 240, 235), None, 0),
        ((255, 255, 0), None, 255),
        ((0, 0, 0), None, 255),
        ((200, 30, 30), None, 255),
        ((255, 255, 255), (0, 0, 0), 128),
        ((255, 255, 255), (220, 20, 20), 0),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_a_logo_on_transparent_ground_can_be_seen(
    colour: tuple[int, int, int], second: tuple[int, int, int] | None, ground: int, soft: bool
) -> None:
    shown = read(logo(colour, second, soft))
    assert (shown[0] == ground).all()
    contrast = np.abs(shown[BARS].astype(int) - ground).max(axis=1)
    assert (contrast >= 32).all()


def test_a_picture_whose_outline_shows_keeps_its_white_ground() -> None:
    """Highlights inside it do not count: what is next to transparency decides."""
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[8:40, 8:56] = (90, 60, 30, 255)
    rgba[14:34, 14:50] = 255
    assert (read(png(rgba))[0, 0] == 255).all()


def test_what_is_wholly_transparent_is_refused() -> None:
    with pytest.raises(ItemError, match="transparent") as caught:
        read(png(np.zeros((8, 8, 4), np.uint8)))
    assert caught.value.reason == "reference.invisible"


def test_opaque_pictures_are_what_decoding_shows() -> None:
    for data in (png(RGB), jpeg(RGB), webp(RGB, True), tiff(RGB), palette_png(RGB, 32, 8)):
        assert np.array_equal(read(data), decode(data, name="a", limits=LIMITS).rgb)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_tifffile(samples: np.ndarray, **options: object) -> bytes:
    out = BytesIO()
    tifffile.imwrite(out, samples, metadata=None, **options)
    return out.getvalue()


def frames(kind: str) -> bytes:
    return saved(Image.fromarray(RGB), kind, save_all=True, append_images=[Image.fromarray(RGB[::-1])], **(
        {"lossless": True} if kind == "WEBP" else {}
    ))  # fmt: skip


FLOATS = RGB.astype(np.float32) / 255
READ: dict[str, Callable[[], bytes]] = {
    "16-bit PNG": lambda: png(RGB.astype(np.uint16) * 257),
    "animated PNG": lambda: frames("PNG"),
    "animated WebP": lambda: frames("WEBP"),
    "TIFF of two pages": lambda: frames("TIFF"),
    "tiled TIFF": lambda: with_tifffile(RGB, tile=(16, 16), photometric="rgb"),
    "tiled 16-bit TIFF": lambda: with_tifffile(RGB.astype(np.uint16) * 257, tile=(16, 16), photometric="rgb"),
    "planar TIFF": lambda: with_tifffile(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    "float TIFF": lambda: with_tifffile(FLOATS, photometric="rgb"),
    "float TIFF to 255": lambda: with_tifffile(FLOATS * 255, photometric="rgb"),
    "double TIFF": lambda: with_tifffile(FLOATS.astype(np.float64), photometric="rgb"),
    "upside-down tiled TIFF": lambda: with_tifffile(
        RGB[::-1, ::-1], tile=(16, 16), photometric="rgb", extratags=[(274, 3, 1, 3, True)]
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_layouts_that_cannot_be_edited_are_read(kind: str) -> None:
    shown = read(READ[kind]()).astype(int)
    assert shown.shape == RGB.shape
    assert np.abs(shown - RGB).max() <= 1


def test_line_art_of_one_bit_is_read() -> None:
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(read(saved(Image.fromarray(BARS), kind))[..., 1], BARS * np.uint8(255))


def test_grey_floats_are_read() -> None:
    shown = read(with_tifffile(FLOATS[..., 0], photometric="minisblack"))
    assert np.abs(shown[..., 2].astype(int) - RGB[..., 0]).max() <= 1


@pytest.mark.filterwarnings("error")
def test_the_first_of_several_pictures_in_one_jpeg_is_taken() -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1])
    out = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    broken_index = with_segments(jpeg(RGB), (0xE2, b"MPF\0" + bytes(40)), trailing=jpeg(RGB[::-1]))
    for data in (out, broken_index):
        shown = read(data).astype(int)
        assert np.abs(shown - RGB).mean() < np.abs(shown - RGB[::-1]).mean() / 3
    turned = with_segments(out, (0xE1, b"Exif\0\0" + exif_block(3)))
    assert np.array_equal(read(turned), read(out)[::-1, ::-1])


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "reference.empty"),
    "text": (b"a logo", "reference.not_an_image"),
    "cut": (png(RGB)[:90], "reference.truncated"),
    "broken profile": (with_chunks(png(RGB), (b"iCCP", b"p\0\0" + b"\x78\x9c\x03\x00\x00\x00\x00\x01")), "reference."),
    "damaged tiles": (with_tifffile(RGB, tile=(16, 16), photometric="rgb")[:-4000], "reference.truncated"),
    "negative floats": (with_tifffile(FLOATS - 3, photometric="rgb"), "reference.unsupported"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_speak_of_a_reference(kind: str) -> None:
    data, reason = REFUSED[kind]
    with pytest.raises(ItemError, match=r"logo\.png") as caught:
        read(data)
    assert caught.value.reason.startswith(reason)
    assert "to refine" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tiled TIFF", "float TIFF", "animated PNG", "animated WebP"])
def test_limits_hold_for_layouts_that_are_only_looked_at(kind: str) -> None:
    with pytest.raises(ItemError) as caught:
        decode_reference(READ[kind](), name="logo.png", limits=ImageLimits(max_pixels=64 * 48 - 1))
    assert caught.value.reason == "reference.too_large"
