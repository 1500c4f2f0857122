"""Eq. 10-11 derived by hand on small masks, and as gradients."""

import math

import numpy as np
import pytest
import torch

from refine_ops.train.config import LossSettings
from refine_ops.train.loss import band_on_latents, boundary_band, boundary_loss, kernel_px, sample_sigma, sigma_weight


def _mask(rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows.split()])


def test_band_of_a_square_by_hand() -> None:
    # 3x3 kernels: one pixel more on every side, one less inside.
    mask = _mask("........ ........ ..####.. ..####.. ..####.. ..####.. ........ ........")
    band = _mask("........ .######. .######. .##..##. .##..##. .######. .######. ........")
    assert np.array_equal(boundary_band(mask, 3, 3), band)


def test_a_stroke_thinner_than_the_erosion_is_band_throughout() -> None:
    mask = np.zeros((40, 60), bool)
    mask[19:22, 10:50] = True
    band = boundary_band(mask, 16, 16)
    assert band[mask].all()
    rows, columns = np.flatnonzero(band.any(1)), np.flatnonzero(band.any(0))
    # Offsets -8..7: 7 px before the first row and column, 8 px behind the last.
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (19 - 7, 21 + 8, 10 - 7, 49 + 8)
    assert band.sum() == (3 + 15) * (40 + 15)


def test_the_papers_kernels_make_a_band_of_15_px_at_every_side() -> None:
    mask = np.zeros((128, 128), bool)
    mask[40:90, 40:90] = True
    band = boundary_band(mask, 16, 16)
    row, column = band[64], band[:, 64]
    for line in (row, column):
        edges = np.flatnonzero(np.diff(line.astype(int)))
        assert list(np.diff(edges)[::2]) == [15, 15]


def test_the_crops_edge_is_no_boundary() -> None:
    assert not boundary_band(np.ones((32, 32), bool), 16, 16).any()
    mask = np.zeros((32, 64), bool)
    mask[:, :32] = True
    assert not boundary_band(mask, 16, 16)[:, :16].any()


@pytest.mark.parametrize(
    ("size", "side", "expected"), [(16, 1024, 16), (16, 512, 8), (16, 128, 2), (16, 64, 2), (1, 128, 1), (16, 2048, 32)]
)
def test_kernels_scale_with_the_root_of_the_area(size: int, side: int, expected: int) -> None:
    assert kernel_px(size, side, side) == expected


def test_the_band_is_averaged_over_each_latent() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[512:, :] = True  # the band is rows 505 to 519 (offsets -8..7: 7 px out, 8 px in)
    band = band_on_latents(mask, LossSettings(), latent_px=8)
    assert band.shape == (128, 128)
    assert band[63, 0] == pytest.approx(7 / 8)
    assert band[64, 0] == 1.0
    assert band[65, 0] == 0.0
    assert band.sum() == pytest.approx(128 * 15 / 8)


def test_objective_by_hand() -> None:
    # Two tokens of 2x2 latents and one channel; errors 1..8, band on two of the eight locations.
    target = torch.zeros(1, 2, 4)
    predicted = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]])
    band = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0, 0.5]]])
    parts = boundary_loss(predicted, target, band, alpha=9.0, weight=torch.ones(1))
    squares = np.arange(1, 9) ** 2
    weights = np.array([10, 1, 1, 1, 1, 1, 1, 5.5])
    assert parts.objective.item() == pytest.approx(float((squares * weights).mean()))
    assert parts.plain.item() == pytest.approx(float(squares.mean()))
    assert parts.band.item() == pytest.approx((1 * 1 + 0.5 * 64) / 1.5)
    assert parts.interior.item() == pytest.approx((squares.sum() - 1 - 32) / 6.5)


def test_alpha_zero_is_plain_flow_matching() -> None:
    predicted, target = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    parts = boundary_loss(predicted, target, torch.rand(2, 3, 4), 0.0, torch.ones(2))
    assert torch.allclose(parts.objective, torch.nn.functional.mse_loss(predicted, target))


def test_each_location_pulls_with_one_plus_alpha_times_its_band_share() -> None:
    # The gradient with respect to the unpacked prediction, against the band on the latent grid itself: packing, the
    # order of the 2x2 positions and the weights must all agree.
    from refine_ops.model.stages import pack

    channels, height, width = 3, 6, 4
    mask = np.zeros((48, 32), bool)
    mask[10:30, 6:22] = True
    band = torch.from_numpy(band_on_latents(mask, LossSettings(dilate_px=200, erode_px=200), latent_px=8))
    assert len(torch.unique(band)) > 3
    latents = torch.randn(1, channels, height, width, requires_grad=True)
    alpha = 9.0
    parts = boundary_loss(pack(latents), torch.zeros(1, 6, 12), pack(band[None, None]), alpha, torch.ones(1))
    parts.objective.backward()
    expected = 2 * latents.detach() * (1 + alpha * band) / latents.numel()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, expected)


def test_sigma_densities() -> None:
    def draw(settings: LossSettings) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return np.array([sample_sigma(settings, generator) for _ in range(20_000)])

    uniform = draw(LossSettings())
    assert uniform.min() > 0
    assert uniform.max() <= 1
    assert np.abs(np.sort(uniform) - np.linspace(0, 1, 20_000)).max() < 0.015  # Kolmogorov-Smirnov, p < 0.001
    normal = draw(LossSettings(sigma="logit-normal", logit_mean=0.5, logit_std=0.7))
    logits = np.log(normal / (1 - normal))
    assert logits.mean() == pytest.approx(0.5, abs=0.02)
    assert logits.std() == pytest.approx(0.7, abs=0.02)
    shifted = draw(LossSettings(shift=3.0))
    assert np.median(shifted) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5), abs=0.01)


def test_cosmap_weights_average_to_one_over_uniform_noise() -> None:
    weights = [sigma_weight(LossSettings(weighting="cosmap"), s) for s in np.linspace(0, 1, 10_001)]
    assert np.mean(weights) == pytest.approx(1.0, abs=1e-3)
    assert weights[5000] == pytest.approx(4 / math.pi)
