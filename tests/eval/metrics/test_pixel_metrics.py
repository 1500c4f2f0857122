"""Pixel metrics against scikit-image, by hand, and against what each is there to notice."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as reference

from refine_ops.eval.metrics.background import BackgroundMeter, seam_energy
from refine_ops.eval.metrics.fidelity import RegionMeter
from refine_ops.image.difference import inner, ssim_map, ssim_of_change, whole_windows
from tests.support.case_batch import make_batch

BACKGROUND, REGION = BackgroundMeter(), RegionMeter()


def test_region_values_equal_scikit_image(batch) -> None:
    found = REGION.measure(batch)
    for i, (ours, truth) in enumerate(zip(batch.crop(batch.outputs), batch.crop(batch.target), strict=True)):
        mse = reference.mean_squared_error(truth / 255, ours / 255)
        ssim = reference.structural_similarity(
            truth, ours, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert found["mse"][i] == pytest.approx(mse, rel=1e-9)
        assert found["psnr"][i] == pytest.approx(reference.peak_signal_noise_ratio(truth, ours), rel=1e-9)
        assert found["ssim"][i] == pytest.approx(ssim, abs=1e-9)


def test_the_truth_scores_perfectly(batch) -> None:
    perfect = replace(batch, outputs=batch.target)
    assert {k: v.tolist() for k, v in REGION.measure(perfect).items()} == {
        "mse": [0, 0],
        "psnr": [100, 100],
        "ssim": [1, 1],
        "psnr_mask": [100, 100],
    }
    assert BACKGROUND.measure(perfect)["seam"].tolist() == [0, 0]


def test_an_untouched_background_is_exactly_untouched_whatever_happens_in_the_box(batch) -> None:
    outputs = batch.inputs.copy()
    outputs[batch.mask] = 255
    found = BACKGROUND.measure(replace(batch, outputs=outputs))
    assert found["mse_bg"].tolist() == [0, 0]
    assert found["ssim_bg"].tolist() == [1, 1]
    assert found["ssim_strict"].tolist() == [1, 1]
    assert found["changed_outside_px"].tolist() == found["max_diff_outside"].tolist() == [0, 0]


@given(x=st.integers(0, 255), y=st.integers(0, 191), channel=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_one_changed_pixel_is_counted_wherever_it_is_not_allowed(x, y, channel) -> None:
    batch_once = make_batch()
    outputs = batch_once.inputs.copy()
    outputs[1, y, x, channel] ^= 1
    found = BACKGROUND.measure(replace(batch_once, outputs=outputs))
    leaked = float(not batch_once.allowed[1, y, x])
    assert found["changed_outside_px"].tolist() == found["max_diff_outside"].tolist() == [0, leaked]
    assert (found["mse_bg"][1] > 0) == bool(batch_once.outside_box()[y, x])


def test_re_encoding_the_image_is_noticed(batch) -> None:
    coded = np.stack(
        [cv2.imdecode(cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], 1) for i in batch.inputs]
    )
    found = BACKGROUND.measure(replace(batch, outputs=coded))
    assert (found["changed_outside_px"] > 1000).all()
    assert (found["ssim_strict"] < 0.99).all()
    assert (found["ssim_bg"] < 0.99).all()


def test_windows_that_touch_the_allowed_change_do_not_count() -> None:
    inside = np.ones((15, 15), bool)
    inside[0, 0] = False
    whole = inner(whole_windows(inside))
    assert whole.shape == (5, 5)
    assert not whole[0, 0]
    assert whole.sum() == 24


@given(spots=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 39)), max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_shortcut_around_changes_equals_the_full_map(spots) -> None:
    a = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
    b = a.copy()
    for y, x in spots:
        b[y, x] ^= 128
    whole = inner(ssim_map(a.astype(np.float64), b.astype(np.float64)))
    assert (ssim_of_change(a, a) == np.ones((20, 30))).all()
    assert np.allclose(ssim_of_change(a, b), whole, atol=1e-12)
    assert ((ssim_of_change(a, b) == 1) == (whole == 1)).all()


def test_similarity_needs_no_second_opinion_on_flat_and_inverted_images() -> None:
    ramp = np.tile(np.arange(16, dtype=np.float64)[None, :, None] * 17, (16, 1, 3))
    assert float(inner(ssim_map(ramp, ramp)).min()) == 1
    assert float(inner(ssim_map(ramp, 255 - ramp)).mean()) < 0


def test_seam_energy_by_hand() -> None:
    truth = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), bool)
    mask[:, 3:] = True
    raised = np.where(mask[..., None], 110, truth).astype(np.uint8)
    assert seam_energy(raised, truth, mask) == 10
    assert seam_energy(truth + 10, truth, mask) == 0
    assert np.isnan(seam_energy(truth, truth, np.ones_like(mask)))
