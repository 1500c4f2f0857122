import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from refine_ops.image.difference import sampled_de00, ssim_map
from refine_ops.judge.evidence.change import measure_effect
from refine_ops.judge.evidence.drift import from_alignment, measure_drift
from refine_ops.records import Alignment
from tests.support.made_runs import SIDE, photo_edit

EDIT = photo_edit(0)
KNOWN = ~cv2.dilate(EDIT.mask.view(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)


def _moved(dx: float, dy: float, scale: float = 1.0) -> np.ndarray:
    c = SIDE / 2
    matrix = np.float32([[scale, 0, dx + c * (1 - scale)], [0, scale, dy + c * (1 - scale)]])
    return cv2.warpAffine(EDIT.sharp, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def test_ssim_equals_scikit_image_with_the_papers_settings() -> None:
    first = cv2.cvtColor(EDIT.before, cv2.COLOR_RGB2GRAY).astype(np.float32)
    second = cv2.cvtColor(EDIT.after, cv2.COLOR_RGB2GRAY).astype(np.float32)
    _, oracle = structural_similarity(
        first, second, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    assert np.abs(ssim_map(first, second) - oracle)[5:-5, 5:-5].max() < 1e-3


def test_sampled_colour_difference_agrees_with_all_pixels() -> None:
    after = np.clip(EDIT.sharp.astype(int) + 9, 0, 255).astype(np.uint8)
    everything = np.median(deltaE_ciede2000(rgb2lab(EDIT.sharp), rgb2lab(after)))
    whole = np.ones(EDIT.mask.shape, np.bool_)
    assert np.median(sampled_de00(EDIT.sharp, after, whole)) == pytest.approx(everything, abs=0.05)


def test_restoring_detail_reads_as_gained_and_an_untouched_region_as_nothing() -> None:
    effect = measure_effect(EDIT.before, EDIT.after, EDIT.mask)
    assert effect.levels == pytest.approx(np.abs(EDIT.before.astype(int) - EDIT.after)[EDIT.mask].mean(), rel=1e-6)
    nothing = measure_effect(EDIT.before, EDIT.before, EDIT.mask)
    assert (nothing.levels, nothing.de00) == (0.0, 0.0)
    assert nothing.ssim == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.985, 1.015), st.floats(0.93, 1.0))
def test_shift_and_scale_are_recovered_whatever_the_tone(dx: float, dy: float, scale: float, gain: float) -> None:
    drift = measure_drift(EDIT.sharp, np.rint(_moved(dx, dy, scale) * gain).astype(np.uint8), KNOWN)
    assert drift is not None
    assert drift.shift_px == pytest.approx(np.hypot(dx, dy), abs=0.1)
    assert drift.scale_pct == pytest.approx(abs(scale - 1) * 100, abs=0.05)


def test_what_happened_in_the_region_does_not_count() -> None:
    after = EDIT.sharp.copy()
    after[~KNOWN] = 255 - after[~KNOWN]
    drift = measure_drift(EDIT.sharp, after, KNOWN)
    assert drift is not None
    assert (drift.shift_px, drift.de00, drift.ssim) == (0.0, 0.0, 1.0)


def test_flat_pictures_have_a_tone_but_no_geometry() -> None:
    flat = np.full((90, 90, 3), 100, np.uint8)
    drift = measure_drift(flat, flat + 10, np.ones((90, 90), bool))
    assert drift is not None
    assert drift.shift_px is None
    assert drift.de00 is not None
    assert drift.de00 > 2


def test_too_little_known_is_not_measured() -> None:
    known = np.zeros((SIDE, SIDE), bool)
    known[:10, :10] = True
    assert measure_drift(EDIT.sharp, EDIT.sharp, known) is None
    assert from_alignment(Alignment(measured=False, dx_px=3.0)) is None


def test_the_workers_estimate_is_read_as_it_stands() -> None:
    drift = from_alignment(Alignment(measured=True, dx_px=3.0, dy_px=-4.0, scale=0.99, de00_before=2.5))
    assert drift is not None
    assert drift.shift_px == pytest.approx(5.0)
    assert drift.scale_pct == pytest.approx(1.0)
    assert drift.de00 == 2.5
