"""Mask files as people have them: each marks what the rule says, or is refused with what was seen."""

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refine_ops.errors import ItemError
from refine_ops.image.mask import decode_mask
from refine_ops.image.region import tight_box
from refine_ops.records import MaskReading
from tests.support.chain import LIMITS
from tests.support.made_files import jpeg, palette_png, picture, png, tiff, webp
from tests.support.sizes import size

SIDE = 160
YS, XS = np.mgrid[:SIDE, :SIDE]
DISC = (XS - 60) ** 2 + (YS - 65) ** 2 <= 15**2
BRUSH = np.rint(210 * np.exp(-((XS - 60) ** 2 + (YS - 65) ** 2) / (2 * 12.5**2))).astype(np.uint8)
PHOTO = picture(np.random.default_rng(1), SIDE, SIDE)
HARD = DISC.astype(np.uint8) * 255


def read(data: bytes, **reading: int | bool) -> np.ndarray:
    return decode_mask(data, name="m.png", size=(SIDE, SIDE), limits=LIMITS, reading=MaskReading(**reading))


def refusal(data: bytes, **reading: int | bool) -> ItemError:
    with pytest.raises(ItemError, match=r"m\.png") as caught:
        read(data, **reading)
    return caught.value


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def layer(colour: tuple[int, int, int], alpha: np.ndarray, *, exported: bool = False) -> bytes:
    """One colour on a transparent layer; a canvas export leaves black where nothing was painted."""
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    rgba[..., :3] = colour
    if exported:  # premultiplied and back, as canvases store it
        low = alpha.astype(int)[..., None]
        back = np.where(low > 0, (np.array(colour) * low // 255) * 255 // np.maximum(low, 1), 0)
        rgba[..., :3] = back
    rgba[..., 3] = alpha
    return png(rgba)


def palette(entries: np.ndarray, colours: list[tuple[int, int, int]], bits: int = 8) -> bytes:
    image = Image.fromarray(entries.astype(np.uint8), "P")
    image.putpalette(bytes(np.array(colours, np.uint8).ravel()))
    return saved(image, bits=bits)


def classes() -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20:60, 20:60], labels[DISC] = 7, 15
    return labels


def bilevel_tiff() -> bytes:
    return saved(Image.fromarray(DISC), "TIFF", compression="group4")


def tiled_tiff() -> bytes:
    out = BytesIO()
    tifffile.imwrite(out, HARD, tile=(16, 16), photometric="minisblack", metadata=None)
    return out.getvalue()


MARKS_THE_DISC: dict[str, Callable[[], bytes]] = {
    "grey 0 and 255": lambda: png(HARD[..., None]),
    "grey 0 and 1": lambda: png(DISC.astype(np.uint8)[..., None]),
    "grey 0 and 100": lambda: png(DISC.astype(np.uint8)[..., None] * 100),
    "16 bits, 0 and 255": lambda: png(HARD.astype(np.uint16)[..., None]),
    "16 bits, 0 and 65535": lambda: png(HARD.astype(np.uint16)[..., None] * 257),
    "16 bits, 0 and 1": lambda: png(DISC.astype(np.uint16)[..., None]),
    "1 bit": lambda: saved(Image.fromarray(DISC)),
    "1-bit TIFF": bilevel_tiff,
    "tiled TIFF": tiled_tiff,
    "TIFF": lambda: tiff(HARD[..., None]),
    "RGB white on black": lambda: png(np.repeat(HARD[..., None], 3, 2)),
    "red on black": lambda: png(HARD[..., None] * np.array([1, 0, 0], np.uint8)),
    "dark green on black": lambda: png(DISC[..., None] * np.array([0, 100, 0], np.uint8)),
    "lossless WebP": lambda: webp(np.repeat(HARD[..., None], 3, 2), True),
    "palette, black first": lambda: palette(DISC, [(0, 0, 0), (255, 255, 255)], bits=1),
    "palette, white first": lambda: palette(~DISC, [(255, 255, 255), (0, 0, 0)], bits=1),
    "palette, black and maroon": lambda: palette(DISC, [(0, 0, 0), (128, 0, 0)]),
    "white on transparent": lambda: layer((255, 255, 255), HARD),
    "black on transparent": lambda: layer((0, 0, 0), HARD),
    "olive on transparent, exported": lambda: layer((90, 100, 20), HARD, exported=True),
    "opaque RGBA": lambda: png(np.concatenate([np.repeat(HARD[..., None], 3, 2), HARD[..., None] * 0 + 255], 2)),
    "upside down, EXIF says so": lambda: tiff(HARD[::-1, ::-1, None], orientation=3),
}


@pytest.mark.parametrize("kind", MARKS_THE_DISC)
def test_a_hard_mask_marks_the_same_pixels_in_every_guise(kind: str) -> None:
    assert np.array_equal(read(MARKS_THE_DISC[kind]()), DISC)
    assert np.array_equal(read(MARKS_THE_DISC[kind](), invert=True), ~DISC)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 0), (20, 90, 40)])
def test_a_soft_brush_marks_the_same_pixels_whichever_layer_it_lies_on(
    colour: tuple[int, int, int], exported: bool
) -> None:
    expected = BRUSH >= 128
    assert tight_box(expected) == (48, 53, 73, 78)
    assert np.array_equal(read(png(BRUSH[..., None])), expected)
    assert np.array_equal(read(layer(colour, BRUSH, exported=exported)), expected)


def test_a_soft_brush_in_16_bits_and_in_red_on_black_is_the_same_mark() -> None:
    assert np.array_equal(read(png(BRUSH.astype(np.uint16)[..., None] * 257)), BRUSH >= 128)
    assert np.array_equal(read(png(BRUSH.astype(np.uint16)[..., None])), BRUSH >= 128)
    assert np.array_equal(read(png(BRUSH[..., None] * np.array([1, 0, 0], np.uint8))), BRUSH >= 128)


def test_small_soft_and_faint_dots_are_a_mask() -> None:
    """Cones, whose tips are as sharp as a slope can be, and a spray of Gaussian dots, some of them below white."""
    ys, xs = np.mgrid[:64, :80]
    spots = ((72, 43, 2.4, 5.6), (61, 11, 2.3, 5.6), (24, 25, 2.3, 5.6))
    cones = np.max([np.clip((r - np.hypot(xs - x, ys - y)) / soft + 0.5, 0, 1) for x, y, r, soft in spots], axis=0)
    ys, xs = np.mgrid[:256, :320]
    places = np.random.default_rng(0).uniform((0, 0, 0.6), (320, 256, 1.0), (30, 3))
    spray = np.max([a * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 32) for x, y, a in places], axis=0)
    for level in (cones, spray, 1 - spray):
        eight = np.rint(level * 255).astype(np.uint8)
        assert np.array_equal(
            decode_mask(png(eight[..., None]), name="m", size=level.shape[::-1], limits=LIMITS), eight >= 128
        )


@pytest.mark.parametrize("quality", [60, 90])
def test_a_mask_saved_as_jpeg_is_a_mask(quality: int) -> None:
    rgb = np.repeat(HARD[..., None], 3, 2)
    for data in (jpeg(rgb, "420", quality=quality), saved(Image.fromarray(HARD), "JPEG", quality=quality)):
        found = read(data)
        assert (found != DISC).sum() <= 4


def grey(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]


def product_on_white() -> np.ndarray:
    shot = np.full_like(PHOTO, 255)
    shot[30:130, 40:120] = PHOTO[30:130, 40:120]
    return shot


def erased() -> bytes:
    return png(np.concatenate([PHOTO, 255 - HARD[..., None]], axis=2))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "photo": (lambda: png(PHOTO), "has colours"),
    "photo as JPEG": (lambda: jpeg(PHOTO), "has colours"),
    "photo with the place erased": (erased, "set mask_invert to mark what is transparent"),
    "grey photo": (lambda: png(grey(PHOTO)), "neither black nor white"),
    "grey product on white": (lambda: png(grey(product_on_white())), "texture"),
    "product on white": (lambda: png(product_on_white()), "has colours"),
    "photo in a palette": (lambda: palette_png(PHOTO, 64, 8), "has colours"),
    "grey label image": (lambda: png(classes()[..., None]), r"0 \(.*%\), 7 \(.*%\), 15 \(.*mask_class"),
    "16-bit label image": (lambda: png(classes().astype(np.uint16)[..., None]), "mask_class"),
    "palette label image": (
        lambda: palette(classes(), [(0, 0, 0)] * 7 + [(128, 0, 0)] * 8 + [(0, 128, 0)]),
        "mask_class",
    ),
    "one class and a border to ignore": (
        lambda: png(np.where(DISC, 1, np.where(YS < 20, 255, 0)).astype(np.uint8)[..., None]),
        "value 1 looks like a class",
    ),
    "trimap": (
        lambda: png(np.where(DISC, 255, np.where(YS < 20, 128, 0)).astype(np.uint8)[..., None]),
        "flat grey of 128",
    ),
    "red on white": (lambda: png(np.where(DISC[..., None], [255, 0, 0], 255).astype(np.uint8)), "has colours"),
    "faint brush": (lambda: png((BRUSH // 2)[..., None]), "nothing in it reaches half of white"),
    "one grey all over": (lambda: png(np.full((SIDE, SIDE, 1), 90, np.uint8)), "reaches half of white"),
    "a layer at half opacity": (lambda: layer((255, 255, 255), np.full_like(HARD, 140)), "neither black nor white"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_is_refused_with_what_was_seen(kind: str) -> None:
    make, seen = REFUSED[kind]
    error = refusal(make())
    assert error.reason == "mask.ambiguous"
    assert re.search(seen, str(error)), str(error)


def test_a_refused_mask_can_be_told_apart() -> None:
    assert np.array_equal(read(erased(), invert=True), DISC)
    assert np.array_equal(read(erased(), level=128), ~DISC)
    assert np.array_equal(read(png((BRUSH // 2)[..., None]), level=64), BRUSH // 2 >= 64)
    assert np.array_equal(read(png(grey(PHOTO)), level=200), grey(PHOTO)[..., 0] >= 200)
    coded = [
        png(classes()[..., None]),
        png(np.repeat(classes()[..., None], 3, 2)),
        png(classes().astype(np.uint16)[..., None]),
        palette(classes(), [(i * 9, 255 - i, i) for i in range(16)], bits=4),
        tiff(classes()[..., None]),
    ]
    for data in coded:
        assert np.array_equal(read(data, label=7), classes() == 7)
        assert np.array_equal(read(data, label=15, invert=True), classes() != 15)
        assert "0 (" in str(refusal(data, label=3))
    four_bits = saved(Image.fromarray(classes() * 17), bits=4)
    assert np.array_equal(read(four_bits, label=7), classes() == 7)
    assert refusal(png(PHOTO), label=1).reason == "mask.ambiguous"


@pytest.mark.parametrize(
    ("data", "reading", "reason"),
    [
        (png(HARD[..., None] * 0), {}, "mask.empty"),
        (layer((255, 255, 255), HARD * 0), {}, "mask.empty"),
        (png(HARD[..., None]), {"level": 256}, "mask.empty"),
        (png(HARD[..., None] * 0 + 255), {"invert": True}, "mask.empty"),
        (png(HARD[:-1, :, None]), {}, "mask.size"),
        (png(HARD[..., None])[:60], {}, "mask.truncated"),
        (b"no image", {}, "mask.not_an_image"),
    ],
)
def test_nothing_marked_and_files_that_are_no_mask(data: bytes, reading: dict[str, int], reason: str) -> None:
    assert refusal(data, **reading).reason == reason


def test_the_whole_picture_may_be_marked() -> None:
    assert read(png(HARD[..., None] * 0 + 255)).all()
    assert read(png(HARD[..., None] * 0 + 1)).all()


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Smooth levels `float (64, 80)` in [0, 1]: a few spots with soft or hard edges on black, or the same inverted."""
    ys, xs = np.mgrid[:64, :80]
    level = np.zeros((64, 80))
    for _ in range(draw(st.integers(1, 3))):
        x, y = draw(st.floats(5, 75)), draw(st.floats(5, 58))
        radius, soft = draw(st.floats(2, 14)), draw(st.floats(0.2, 6))
        level = np.maximum(level, np.clip((radius - np.hypot(xs - x, ys - y)) / soft + 0.5, 0, 1))
    return 1 - level if draw(st.booleans()) else level


KINDS = ("grey", "rgb", "grey16", "alpha", "tinted alpha", "red", "tiff", "palette", "exported")


def guise(kind: str, level: np.ndarray) -> bytes:
    eight = np.rint(level * 255).astype(np.uint8)
    rgba = np.dstack([np.full((*level.shape, 3), 255, np.uint8), eight])
    makers: dict[str, Callable[[], bytes]] = {
        "grey": lambda: png(eight[..., None]),
        "rgb": lambda: png(np.repeat(eight[..., None], 3, 2)),
        "grey16": lambda: png(np.rint(level * 65535).astype(np.uint16)[..., None]),
        "alpha": lambda: png(rgba),
        "tinted alpha": lambda: png(rgba // np.array([1, 2, 3, 1], np.uint8)),
        "red": lambda: png(eight[..., None] * np.array([1, 0, 0], np.uint8)),
        "tiff": lambda: tiff(eight[..., None], "zlib"),
        "palette": lambda: palette(eight, [(i, i, i) for i in range(256)]),
        "exported": lambda: png(rgba * (eight > 0)[..., None]),
    }
    return makers[kind]()


@settings(max_examples=size(500, 60), deadline=None)
@given(level=blobs(), kind=st.sampled_from(KINDS), damage=st.sampled_from(["none", "none", "faint", "noise", "class"]))
def test_a_generated_mask_marks_what_the_rule_says_or_is_refused(level: np.ndarray, kind: str, damage: str) -> None:
    if damage == "faint":
        level = level * 0.4
    elif damage == "noise":
        level = np.clip(level * 0.6 + np.random.default_rng(0).random(level.shape) * 0.4, 0, 1)
    elif damage == "class":
        level = np.where(np.arange(80) < 20, 100 / 255, level)
    expected = np.rint(level * 65535) >= 32768 if kind == "grey16" else np.rint(level * 255) >= 128
    found: np.ndarray | str
    try:
        found = decode_mask(guise(kind, level), name="m", size=(80, 64), limits=LIMITS)
    except ItemError as error:
        found = error.reason
    if isinstance(found, str):
        between = (level > 16 / 255) & (level < 239 / 255)
        assert found in ("mask.ambiguous", "mask.empty")
        assert damage != "none" or between.mean() > 0.3 or not expected.any()
        return
    values = np.unique(np.rint(level * 255))
    if len(values) == 2 and values[0] == 0:
        expected = level * 255 >= 0.5
    else:
        assert damage not in ("noise", "class")
    assert np.array_equal(found, expected)
