"""Focus crops (Eq. 3-5): inside the image, never stretched, and resampled once on the way back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.config import ImageLimits, PasteSettings
from refine_ops.errors import ItemError
from refine_ops.image import focus, paste
from refine_ops.image.region import paste_mask, region_mask, tight_box
from refine_ops.records import Region, Scribble

LIMITS = ImageLimits()
PAPER = PasteSettings(blend="paper")


@st.composite
def marked(draw: st.DrawFn) -> np.ndarray:
    width, height = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), bool)
    mask[y0 : draw(st.integers(y0 + 1, height)), x0 : draw(st.integers(x0 + 1, width))] = True
    return mask


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    mask=marked(), margin=st.integers(0, 80), grid=st.sampled_from([8, 32]), budget=st.sampled_from([128, 512, 1024])
)
def test_crops_hold_the_margin_and_are_never_stretched(mask: np.ndarray, margin: int, grid: int, budget: int) -> None:
    height, width = mask.shape
    crop = focus.plan_crop(mask, margin_px=margin, grid_px=grid, pixels=budget**2)
    (bx0, by0, bx1, by1), (x0, y0, x1, y1) = crop.tight, crop.crop
    assert (bx0, by0, bx1, by1) == (
        np.nonzero(mask.any(0))[0][0], np.nonzero(mask.any(1))[0][0],
        np.nonzero(mask.any(0))[0][-1] + 1, np.nonzero(mask.any(1))[0][-1] + 1,
    )  # fmt: skip
    assert 0 <= x0 <= max(bx0 - margin, 0)
    assert min(bx1 + margin, width) <= x1 <= width
    assert 0 <= y0 <= max(by0 - margin, 0)
    assert min(by1 + margin, height) <= y1 <= height
    left, top, right, bottom = crop.pad
    view_width, view_height = left + x1 - x0 + right, top + y1 - y0 + bottom
    assert view_width * crop.size[1] == view_height * crop.size[0], "the same ratio, exactly"
    assert crop.size[0] % grid == crop.size[1] % grid == 0
    assert crop.size[0] * crop.size[1] <= budget**2
    if left or right:
        assert (x0, x1) == (0, width), "padding only where the image ends"
    if top or bottom:
        assert (y0, y1) == (0, height)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(mask=marked(), seed=st.integers(0, 99))
def test_the_view_and_back_is_nearly_the_crop(mask: np.ndarray, seed: int) -> None:
    """On a smooth picture shown at its own size or larger, there and back loses at most 3/255 anywhere."""
    height, width = mask.shape
    crop = focus.plan_crop(mask, margin_px=16, grid_px=8, pixels=512**2)
    view_width = crop.pad[0] + crop.crop[2] - crop.crop[0] + crop.pad[2]
    y, x = np.mgrid[:height, :width]
    wave = 0.5 + 0.2 * np.sin(x / 11 + seed) + 0.2 * np.cos(y / 13)
    rgb = np.rint(np.stack([wave, wave[::-1], 1 - wave], axis=2) * 255).astype(np.uint8)
    seen = focus.view(rgb, crop)
    assert seen.shape == (crop.size[1], crop.size[0], 3)
    assert focus.view_mask(focus.crop_of(mask, crop.crop), crop).any()
    back = focus.unview(seen.astype(np.float32) / 255, crop)
    truth = focus.crop_of(rgb, crop.crop)
    assert back.shape == truth.shape
    if crop.size[0] >= view_width:
        assert np.abs(back * 255 - truth).max() <= 3


def test_drift_is_undone_by_the_same_resampling() -> None:
    """Content moved by whole model pixels comes back exactly where it belongs."""
    mask = np.zeros((256, 256), bool)
    mask[100:150, 90:160] = True
    crop = focus.plan_crop(mask, margin_px=200, grid_px=32, pixels=256 * 256)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    patch = focus.view(rgb, crop).astype(np.float32) / 255
    moved = np.roll(patch, (3, -2), axis=(0, 1))
    back = focus.unview(moved, crop, focus.Displacement(dx_px=-2, dy_px=3))
    assert np.abs(back - rgb / 255)[8:-8, 8:-8].max() < 1e-5


def test_margin_units() -> None:
    assert focus.margin_in_pixels((1024, 1024), 64, "image_1mp") == 64
    assert focus.margin_in_pixels((4096, 4096), 64, "image_1mp") == 256
    assert focus.margin_in_pixels((4096, 4096), 64, "native") == 64
    assert focus.margin_in_pixels((64, 64), 64, "image_1mp", reach_px=8) == 8


def test_a_thin_stroke_stays_visible_when_the_view_shrinks() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[1000, 100:1900] = True
    crop = focus.plan_crop(mask, margin_px=64, grid_px=8, pixels=128 * 128)
    assert focus.view_mask(focus.crop_of(mask, crop.crop), crop).any(axis=0).sum() > 100


def test_a_budget_below_one_cell_is_a_clear_error() -> None:
    with pytest.raises(ItemError, match="raise focus_pixels"):
        focus.plan_crop(np.ones((9, 9), bool), margin_px=0, grid_px=32, pixels=31 * 32)


@pytest.mark.parametrize(
    ("box", "reason"),
    [((5, 5, 5, 9), "box.inverted"), ((9, 5, 5, 9), "box.inverted"), ((-1, 0, 4, 4), "box.outside"),
     ((0, 0, 41, 4), "box.outside"), ((0, 0, 4, 31), "box.outside")],
)  # fmt: skip
def test_bad_boxes(box: tuple[int, int, int, int], reason: str) -> None:
    with pytest.raises(ItemError) as caught:
        region_mask(Region("r", "p", box=box), (40, 30), None, LIMITS)
    assert caught.value.reason == reason


def test_boxes_are_half_open() -> None:
    mask = region_mask(Region("r", "p", box=(3, 4, 40, 30)), (40, 30), None, LIMITS)
    assert mask.sum() == 37 * 26
    assert tight_box(mask) == (3, 4, 40, 30)


def test_a_scribble_is_as_wide_as_it_says_with_round_ends() -> None:
    """Area of a stadium: length x width + a disc, within 2 %."""
    scribble = Scribble(strokes=(((30.0, 50.5), (90.0, 50.5)),), width_px=15)
    mask = region_mask(Region("r", "p", scribble=scribble), (120, 100), None, LIMITS)
    assert abs(mask.sum() - (60 * 15 + np.pi * 7.5**2)) < 0.02 * (60 * 15 + np.pi * 7.5**2)
    assert abs(int(mask[:, 60].sum()) - 15) <= 1


def test_the_thinnest_diagonal_is_connected() -> None:
    scribble = Scribble(strokes=(((2.3, 1.1), (95.2, 61.7), (3.0, 70.0)),), width_px=0.1)
    mask = region_mask(Region("r", "p", scribble=scribble), (100, 80), None, LIMITS)
    assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2
    assert mask.sum() < 3 * 200


@pytest.mark.parametrize("point", [(0.0, 0.0), (19.9, 9.9), (7.5, 3.5), (7.0, 3.0)])
def test_a_single_thin_point_marks_the_pixel_it_lies_in(point: tuple[float, float]) -> None:
    scribble = Scribble(strokes=((point,),), width_px=0.2)
    mask = region_mask(Region("r", "p", scribble=scribble), (20, 10), None, LIMITS)
    assert mask[int(point[1]), int(point[0])]
    assert mask.sum() <= 4


def test_a_scribble_outside_the_image_is_refused() -> None:
    for stroke in (((500.0, 500.0), (600.0, 600.0)), ((float("nan"), 1.0),), ((1e30, 1.0), (2.0, 2.0))):
        with pytest.raises(ItemError) as caught:
            region_mask(Region("r", "p", scribble=Scribble((stroke,), 3)), (40, 30), None, LIMITS)
        assert caught.value.reason == "scribble.outside"


def test_box_policy_fills_the_tight_box() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3, 4] = mask[9, 15] = True
    assert paste_mask(mask, "mask") is mask
    assert paste_mask(mask, "box").sum() == 7 * 12


def test_blend_follows_equation_8_and_reaches_8_px() -> None:
    mask = np.zeros((61, 61), bool)
    mask[20:40, 20:40] = True
    paper = paste.blend_mask(mask, PAPER)
    full = paste.blend_mask(mask)
    for blend in (paper, full):
        rows = np.nonzero(blend.any(axis=1))[0]
        assert (rows[0], rows[-1]) == (20 - 8, 39 + 8)
    assert PasteSettings().reach_px == 8
    # Eq. 8 by its definition: a box of 26 px convolved with OpenCV's sampled, normalised Gaussian of sigma 2.
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 2.0**2))
    line = np.convolve((np.arange(61) >= 17) & (np.arange(61) < 43), taps / taps.sum(), mode="same")
    assert np.allclose(paper, np.outer(line, line), atol=1e-6)
    assert (full[mask] == 1).all()
    assert paper[20, 20] < 1


def test_a_one_pixel_stroke_is_fully_replaced() -> None:
    mask = np.zeros((41, 41), bool)
    mask[20, 5:35] = True
    assert (paste.blend_mask(mask)[mask] == 1).all()
    assert paste.blend_mask(mask, PAPER)[mask].max() < 0.95


def test_the_blend_stays_whole_at_the_images_edge() -> None:
    mask = np.ones((30, 30), bool)
    assert (paste.blend_mask(mask, PAPER) > 0.9999).all()
