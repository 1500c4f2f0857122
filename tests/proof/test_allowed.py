"""The allowed change against its definition, pixel by pixel, and against everything the settings let the chain do."""

import itertools
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from refine_ops.chain import Finished, Refinement, finish_shown
from refine_ops.config import FocusSettings, ImageLimits, PasteSettings, RefineSettings, WriteSettings
from refine_ops.eval.config import ControlMethod, RefinerMethod
from refine_ops.eval.methods.open import promised
from refine_ops.image.read import decode
from refine_ops.opened import open_item
from refine_ops.proof.allowed import Rules, allowed_change
from refine_ops.proof.recheck import Strict, check_strict
from refine_ops.records import Item, Patch, Region
from tests.support.made_files import (
    MCU,
    exif_block,
    jpeg,
    odd_jpeg,
    opencv_samples,
    picture,
    pillow_samples,
    png,
    with_segments,
)

WIDTH, HEIGHT = 150, 110
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What a viewer does, by Pillow's table."""


@dataclass(frozen=True)
class Sizes:
    """A refiner that answers with the negative, so that every pixel it may change does."""

    grid_px: int = 8
    focus_pixels: int = 96 * 96
    reference: str = "as_given"
    tile_zoom: float = 0.0


def marking() -> np.ndarray:
    """A slanted bar that reaches the image's right edge, and a dot: `bool (HEIGHT, WIDTH)`."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.line(mask, (60, 70), (149, 30), 1, 44)
    mask[90:93, 40:44] = 1
    return mask > 0


def turned(mask: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(TURNS[orientation])) > 0


def stored(mask: np.ndarray, orientation: int) -> np.ndarray:
    return turned(mask, {6: 8, 8: 6}.get(orientation, orientation))


def by_definition(
    mask: np.ndarray, box: bool, reach: int | None, mcu: tuple[int, int] | None, bleed: bool, orientation: int
) -> np.ndarray:
    """Loops over pixels and MCUs. `reach` None: confined. `mcu` None: not a JPEG."""
    ys, xs = np.nonzero(mask)
    pasted = mask.copy()
    if box:
        pasted[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    wide = np.zeros_like(pasted)
    for y, x in zip(*np.nonzero(pasted), strict=True):
        near = reach or 0
        wide[max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1] = True
    if mcu is None:
        return wide
    seen, allowed = stored(wide, orientation), np.zeros_like(stored(wide, orientation))
    for y, x in itertools.product(range(0, seen.shape[0], mcu[1]), range(0, seen.shape[1], mcu[0])):
        block = seen[y : y + mcu[1], x : x + mcu[0]]
        if block.all() if reach is None else block.any():
            across, down = (mcu[0] > 8, mcu[1] > 8) if bleed and reach is not None else (False, False)
            allowed[max(0, y - down) : y + mcu[1] + down, max(0, x - across) : x + mcu[0] + across] = True
    return turned(allowed, orientation)


def made_jpeg(sampling: str, orientation: int) -> bytes:
    sides = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    coded = jpeg(picture(np.random.default_rng(orientation), *sides), sampling)
    return with_segments(coded, (0xE1, b"Exif\0\0" + exif_block(orientation)))


def settings_of(paste: PasteSettings, write: WriteSettings) -> RefineSettings:
    return RefineSettings(paste=paste, write=write, focus=FocusSettings(margin=20, margin_unit="native"))


def refined(data: bytes, policy: str, settings: RefineSettings) -> Finished:
    """Through the whole chain, its verification included."""
    mask = cv2.imencode(".png", marking().astype(np.uint8) * 255)[1].tobytes()
    item = Item("a", "i", "i", (Region("r", "p", mask="m", paste=policy),), row=0)
    refinement = Refinement(item, open_item(item, {"i": data, "m": mask}, settings), settings, Sizes())
    seen = refinement.conditioning().image
    refinement.absorb(Patch(1 - seen.astype(np.float32) / 255, np.ones(seen.shape[:2], bool), batch_size=1))
    return finish_shown(refinement)


def rechecked(data: bytes, written: bytes, policy: str, rules: Rules) -> Strict:
    source, output = (decode(d, name="test", limits=ImageLimits()) for d in (data, written))
    where = allowed_change([(marking(), policy)], source.size, data, written, rules).where
    return check_strict(source, output, where, rules)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sampling", MCU)
def test_a_jpegs_allowed_change_is_the_definitions(sampling: str, orientation: int) -> None:
    data = made_jpeg(sampling, orientation)
    kernels = ((7, 11), (3, 5)) if orientation == 6 else ((7, 11),)
    for (dilate, blur), confine, bleed, policy in itertools.product(
        kernels, ("none", "region"), ("edge", "none"), ("mask", "box")
    ):
        paste = PasteSettings(dilate_px=dilate, blur_px=blur, confine=confine)
        rules = Rules.of(paste, WriteSettings(jpeg_bleed=bleed))
        found = allowed_change([(marking(), policy)], (WIDTH, HEIGHT), data, data, rules)
        reach = None if confine == "region" else dilate // 2 + blur // 2
        wanted = by_definition(marking(), policy == "box", reach, MCU[sampling], bleed == "edge", orientation)
        assert np.array_equal(found.where, wanted), (dilate, confine, bleed, policy)
        assert found.mcus > 0
    as_png = allowed_change([(marking(), "mask")], (WIDTH, HEIGHT), data, png(np.zeros((8, 8, 3), np.uint8)), Rules())
    assert np.array_equal(as_png.where, by_definition(marking(), False, 8, None, False, orientation))
    assert as_png.mcus == 0


@pytest.mark.parametrize("kind", ["grey", "cmyk", "rgb"])
def test_other_colour_codings_have_their_own_blocks(kind: str) -> None:
    data = odd_jpeg(picture(np.random.default_rng(3), WIDTH, HEIGHT), kind, 90)
    found = allowed_change([(marking(), "mask")], (WIDTH, HEIGHT), data, data, Rules())
    assert np.array_equal(found.where, by_definition(marking(), False, 8, (8, 8), False, 1))


def test_an_even_kernel_reaches_one_pixel_less_to_the_left() -> None:
    """OpenCV's dilation by 8 reaches 4 px one way and 3 px the other; the rule is no laxer than that."""
    paste = PasteSettings(dilate_px=8, blur_px=1)
    data = png(picture(np.random.default_rng(3), WIDTH, HEIGHT))
    allowed = allowed_change([(marking(), "mask")], (WIDTH, HEIGHT), data, data, Rules(paste)).where
    grown = by_definition(marking(), False, 4, None, False, 1)
    assert not (allowed & ~grown).any()
    assert allowed.sum() < grown.sum()
    assert refined(data, "mask", settings_of(paste, WriteSettings())).verification.allowed_px == allowed.sum()


@pytest.mark.parametrize(("sampling", "orientation"), [("420", 1), ("422", 6), ("440", 8), ("411", 5)])
def test_whatever_the_settings_our_own_file_is_strict_and_the_proof_counts_it(sampling: str, orientation: int) -> None:
    data = made_jpeg(sampling, orientation)
    for confine, policy, blur, fallback in itertools.product(
        ("none", "region"), ("mask", "box"), (11, 25), ("refuse", "png")
    ):
        settings = settings_of(
            PasteSettings(confine=confine, blur_px=blur),
            WriteSettings(jpeg_fallback=fallback, jpeg_bleed="edge" if blur == 11 else "none"),
        )
        done = refined(data, policy, settings)
        assert done.format == "jpeg"
        strict = rechecked(data, done.data, policy, Rules.of(settings.paste, settings.write))
        assert strict == Strict(0, 0, None, ()), (confine, policy, blur, fallback)
        for decoded in (pillow_samples, opencv_samples):
            changed = (decoded(data) != decoded(done.data)).any(axis=2)
            assert changed.sum() <= done.verification.allowed_px
        assert done.verification.changed_px > 0
        assert done.verification.changed_outside_px == done.verification.max_diff_outside == 0


def test_a_file_that_fell_back_to_png_is_held_to_the_blend_alone() -> None:
    data, settings = made_jpeg("420", 6), settings_of(PasteSettings(), WriteSettings(output_format="png"))
    done = refined(data, "mask", settings)
    rules = Rules.of(settings.paste, settings.write)
    assert rechecked(data, done.data, "mask", rules).changed_outside_px == 0
    samples = pillow_samples(done.data).copy()
    where = allowed_change([(marking(), "mask")], (WIDTH, HEIGHT), data, data, rules).where  # of a JPEG: larger
    y, x = np.argwhere(where & ~by_definition(marking(), False, 8, None, False, 1))[0]
    samples[y, x] ^= 1
    assert rechecked(data, png(samples), "mask", rules).changed_outside_px == 1


def test_an_unconfined_edit_of_a_confined_jpeg_is_found() -> None:
    """Blocks that reach out of the region are not the region's, however much of it they hold."""
    data = made_jpeg("420", 1)
    done = refined(data, "mask", settings_of(PasteSettings(), WriteSettings()))
    confined = Rules.of(PasteSettings(confine="region"), WriteSettings())
    source, output = pillow_samples(data), pillow_samples(done.data)
    outside = (source != output).any(axis=2) & ~by_definition(marking(), False, None, (16, 16), False, 1)
    assert rechecked(data, done.data, "mask", confined).changed_outside_px == outside.sum() > 2000


def test_an_evaluated_method_is_held_to_its_own_settings() -> None:
    settings = settings_of(PasteSettings(dilate_px=15, blur_px=31), WriteSettings(jpeg_bleed="none"))
    data = made_jpeg("422", 8)
    done = refined(data, "mask", settings)
    ours = promised(RefinerMethod(name="wide", refine=settings))
    assert rechecked(data, done.data, "mask", ours).changed_outside_px == 0
    others = promised(ControlMethod(name="as it is", control="identity"))
    assert rechecked(data, done.data, "mask", others).changed_outside_px > 1000


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_the_readers(order: str) -> None:
    """Stored as a LONG, out of range, cut short: what the reader takes for upright, this does too."""
    image = jpeg(picture(np.random.default_rng(1), WIDTH, HEIGHT), "420")
    good = exif_block(6, order=order)
    entry = good.index((0x0112).to_bytes(2, "little" if order == "<" else "big"))
    long = good[: entry + 2] + (4).to_bytes(2, "little" if order == "<" else "big") + good[entry + 4 :]
    for block in (good, exif_block(9, order=order), exif_block(0, order=order), long, good[:12], b"", b"II*\0"):
        data = with_segments(image, (0xE1, b"Exif\0\0" + block))
        source = decode(data, name="test", limits=ImageLimits())
        mask = np.zeros((source.height, source.width), bool)
        mask[3:5, 90:94] = True
        found = allowed_change([(mask, "mask")], source.size, data, data, Rules()).where
        wanted = by_definition(mask, False, 8, (16, 16), True, source.native.orientation)
        assert np.array_equal(found, wanted), block


def test_a_kept_jpeg_with_its_orientation_lost_is_named() -> None:
    """Where a fallback is allowed and was not taken, the file is to be as it was."""
    data = made_jpeg("444", 6)
    out = BytesIO()
    Image.open(BytesIO(data)).save(out, "JPEG", quality="keep")
    rules = Rules.of(PasteSettings(), WriteSettings(jpeg_fallback="png"))
    plain = decode(out.getvalue(), name="test", limits=ImageLimits())
    lost = check_strict(
        decode(data, name="test", limits=ImageLimits()), plain, np.ones((HEIGHT, WIDTH), bool), rules
    ).metadata_lost
    assert "EXIF orientation" in lost
