"""A reference finds its pose in the view; what is not the right one, or cannot be told, is said."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from refine_ops.config import FocusSettings
from refine_ops.image import focus
from refine_ops.image.registration.frames import project
from refine_ops.image.registration.register import Registered, best_of, register
from tests.bench.composites import Composite, composite, pose_error, shown


def psnr(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1.0, np.square(one[mask].astype(float) - other[mask]).mean())))


def registered(made: Composite, reference: np.ndarray | None = None) -> Registered:
    view, mask, _ = shown(made)
    return register(made.reference if reference is None else reference, view, mask)


@pytest.mark.parametrize(("number", "damage"), [(15, "blur"), (26, "part"), (25, "blur"), (125, "blur"), (2, "melted")])
def test_the_right_reference_lies_within_a_pixel_and_a_half(number: int, damage: str) -> None:
    made = composite(number, "train", "plane", damage)
    view, mask, crop = shown(made)
    found = register(made.reference, view, mask)
    assert found.agreement.verdict == "fits", found.agreement
    assert found.transform is not None
    assert found.pixels is not None
    assert pose_error(made, crop, found.transform) < 1.5
    truth = focus.view(made.target, crop)
    assert psnr(found.pixels, truth, mask) > psnr(view, truth, mask) + 2


def test_a_flat_mark_without_features_is_found_by_search() -> None:
    made = composite(120, "train", "plane", "blur")
    assert made.kind == "logo"
    found = registered(made)
    assert (found.agreement.verdict, found.agreement.method) == ("fits", "search")


@pytest.mark.parametrize("shows", ["the crop", "the photo"])
def test_a_reference_that_lies_in_place_is_resampled_once_and_not_blurred(photo: np.ndarray, shows: str) -> None:
    """Another shot of the same framing, or the whole photo from before: their pose is exact, not a near one."""
    box = (240, 60, 320, 130)
    mask = np.zeros(photo.shape[:2], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    damaged = np.where(mask[..., None], cv2.GaussianBlur(photo, (0, 0), 2.5), photo)
    crop = focus.plan_crop(mask, margin_px=32, grid_px=8, pixels=128**2)
    relit = np.rint(255 * (photo / 255) ** 0.92).astype(np.uint8)
    x0, y0, x1, y1 = crop.crop
    reference = relit[y0:y1, x0:x1] if shows == "the crop" else relit
    view, seen = focus.view(damaged, crop), focus.view_mask(focus.crop_of(mask, crop.crop), crop)
    found = register(reference, view, seen)
    assert found.agreement.verdict == "fits"
    assert found.transform is not None
    assert found.pixels is not None
    assert abs(found.transform[[0, 1, 2, 2], [1, 0, 0, 1]]).max() == 0
    assert psnr(found.pixels, focus.view(photo, crop), seen) > 36


@pytest.mark.parametrize("number", [0, 5, 8, 15])
def test_another_ones_reference_is_refused(number: int) -> None:
    made = composite(number, "train", "plane", "blur")
    found = registered(made, composite(number + 1000, "train").reference)
    assert found.agreement.verdict == "refused"


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 15, 25])
@pytest.mark.parametrize("change", ["letter", "text"])
def test_a_near_miss_is_not_taken_where_the_region_is_merely_blurred(number: int, change: str) -> None:
    made = composite(number, "train", "plane", "blur")
    assert registered(made).agreement.verdict == "fits"
    near = registered(made, made.near_miss[change]).agreement
    assert near.verdict != "fits", near
    if change == "letter":
        assert near.outside > 0.5, "frame and small print agree: only the region itself can tell"


def test_where_nothing_is_left_of_the_region_nothing_can_be_told() -> None:
    made = composite(13, "train", "plane", "erased")
    found = registered(made)
    assert found.agreement.verdict == "cannot tell"
    assert found.agreement.silence > 0.7


def test_equal_inputs_give_equal_bytes_in_every_thread() -> None:
    made = composite(26, "train", "plane", "part")
    view, mask, _ = shown(made)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = register(made.reference, view, mask)
        cv2.setNumThreads(4)
        with ThreadPoolExecutor(3) as pool:
            company = list(pool.map(lambda _: register(made.reference, view, mask), range(3)))
    finally:
        cv2.setNumThreads(before)
    for other in company:
        assert other.agreement == alone.agreement
        assert other.pixels is not None
        assert alone.pixels is not None
        assert other.pixels.tobytes() == alone.pixels.tobytes()


def test_padding_of_a_reference_is_never_shown() -> None:
    made = composite(15, "train", "plane", "blur")
    view, mask, _ = shown(made)
    padded = cv2.copyMakeBorder(made.reference, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=(255, 0, 255))
    valid = np.zeros(padded.shape[:2], bool)
    valid[80:-80, 80:-80] = True
    plain, found = register(made.reference, view, mask), register(padded, view, mask, valid)
    assert found.agreement.verdict == "fits"
    assert found.covered is not None
    assert plain.covered is not None
    assert np.count_nonzero(found.covered & ~plain.covered) < 0.02 * np.count_nonzero(plain.covered)
    assert np.array_equal(found.pixels[~found.covered], view[~found.covered])


def test_the_transform_maps_the_references_pixels_at_the_size_asked() -> None:
    made = composite(15, "train", "plane", "blur")
    small, large = (shown(made, FocusSettings(focus_pixels=n * n)) for n in (192, 768))
    corners = np.array([[0.0, 0.0], [made.reference.shape[1], made.reference.shape[0]]])
    at = [project(register(made.reference, view, mask).transform, corners) for view, mask, _ in (small, large)]
    ratio = large[0].shape[1] / small[0].shape[1]
    assert np.abs((at[0] + 0.5) * ratio - 0.5 - at[1]).max() < 2 * ratio


@pytest.mark.long
def test_of_several_references_the_one_that_agrees_best_is_taken() -> None:
    made = composite(15, "train", "plane", "blur")
    view, mask, _ = shown(made)
    brand = [("wrong", composite(1001, "train").reference), ("right", made.reference), ("near", made.near_miss["text"])]
    best = best_of(brand, view, mask).agreement
    assert (best.reference, best.verdict) == ("right", "fits")
    assert best.lead > 0


@pytest.mark.parametrize(
    "reference",
    [np.full((64, 64, 3), 120, np.uint8), np.zeros((1, 1, 3), np.uint8), np.zeros((3, 900, 3), np.uint8)],
    ids=["flat", "one pixel", "a line"],
)
@pytest.mark.parametrize("marked", ["all", "one pixel"])
def test_what_shows_nothing_is_refused(reference: np.ndarray, marked: str) -> None:
    view = composite(1, "train").image[:128, :160]
    mask = np.full(view.shape[:2], marked == "all")
    mask[40, 50] = True
    assert register(reference, view, mask).agreement.verdict != "fits"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_two_pictures_show_there_is_a_verdict(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def picture() -> np.ndarray:
        height, width = (int(v) for v in rng.integers(1, 160, 2))
        kind = int(rng.integers(4))
        if kind == 0:
            return np.full((height, width, 3), rng.integers(256), np.uint8)
        if kind == 1:
            return rng.integers(0, 256, (height, width, 3), np.uint8)
        image = np.zeros((height, width, 3), np.uint8)
        image[height // 3 :, width // 2 :] = rng.integers(256, size=3)
        return image if kind == 2 else cv2.GaussianBlur(image, (0, 0), 8)

    view = picture()
    mask = rng.random(view.shape[:2]) < rng.choice([0.001, 0.5, 1.0])
    mask[0, 0] = True
    found = register(picture(), view, mask)
    assert found.agreement.verdict in ("fits", "refused", "cannot tell")
    assert all(np.isfinite(v) for v in dataclasses.astuple(found.agreement) if isinstance(v, float))
    if found.pixels is not None:
        assert found.pixels.shape == view.shape
