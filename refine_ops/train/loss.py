"""Boundary Consistency: flow matching on the focus crop, weighted up along the edit's boundary (Eq. 10-11).

Time runs the other way round than in the paper. There `z_t = t*z_0 + (1-t)*z_1` and `v = z_0 - z_1`, with t = 1 clean;
diffusers' sigma is `1 - t` and its velocity `-v`: `x = (1-sigma)*x0 + sigma*noise`, target `noise - x0`. The squared
error is the same.

Departure: Eq. 11 sums the weighted map over locations and channels; here it is their mean, so that crops of all sizes
count alike. For one size the two differ by a constant, which AdamW's step does not see.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch

from refine_ops.records import Blend, Mask
from refine_ops.train.config import LossSettings

PAPER_PIXELS: Final = 1024 * 1024
"""The crop area at which the paper's kernel sizes hold."""


def boundary_band(mask: Mask, dilate_px: int, erode_px: int) -> Mask:
    """`B_c = Dilate(M_c; r_out) - Erode(M_c; r_in)` (Eq. 10), `bool (h, w)`.

    Kernels are squares of `dilate_px` and `erode_px`. An even kernel has no middle; as in OpenCV its anchor is at half
    its size, so 16 covers offsets -8 to 7 of both operations and the band is 15 px wide at every side. The crop's own
    edges are no boundary: nothing is eroded from there. A stroke thinner than the erosion is band throughout.
    """
    m = mask.astype(np.uint8)
    grown = cv2.dilate(m, np.ones((dilate_px, dilate_px), np.uint8))
    shrunk = cv2.erode(m, np.ones((erode_px, erode_px), np.uint8))
    return np.asarray(grown > shrunk)


def kernel_px(size_px: int, width: int, height: int) -> int:
    """A kernel size given for a 1024^2 crop, at another budget: scaled by the root of the area, at least 2 px.

    Below 2 px dilation and erosion would do nothing and the band would vanish (a 64^2 crop); sizes of 1 stay 1.
    """
    return max(min(size_px, 2), round(size_px * math.sqrt(width * height / PAPER_PIXELS)))


def band_on_latents(mask: Mask, settings: LossSettings, latent_px: int) -> Blend:
    """The band's share of every latent location: `float32 (h / latent_px, w / latent_px)` in [0, 1], area-resized."""
    height, width = mask.shape
    band = boundary_band(
        mask, kernel_px(settings.dilate_px, width, height), kernel_px(settings.erode_px, width, height)
    )
    cells = band.reshape(height // latent_px, latent_px, width // latent_px, latent_px)
    return np.asarray(cells.mean(axis=(1, 3), dtype=np.float32))


@dataclass(frozen=True, slots=True)
class LossParts:
    """Scalars of one micro-batch: the objective, and the unweighted mean squared error overall, in and off the band."""

    objective: torch.Tensor
    plain: torch.Tensor
    band: torch.Tensor
    interior: torch.Tensor


def boundary_loss(
    predicted: torch.Tensor, target: torch.Tensor, band: torch.Tensor, alpha: float, weight: torch.Tensor
) -> LossParts:
    """Eq. 11 as a mean: `mean(weight * (predicted - target)^2 * (1 + alpha * band))`.

    Args:
        predicted: `(B, T, 4C)` velocity in packed tokens; `target` alike. Compared in fp32.
        band: `float32 (B, T, 4)`, the band's share of the token's 2 x 2 latents in packing order.
        weight: `float32 (B,)`, the noise level's factor (`sigma_weight`).

    Returns:
        Parts; `band` and `interior` are NaN where the batch has no such location.
    """
    error = (predicted.float() - target.float()).square()
    per_location = error.view(*error.shape[:2], -1, 4).mean(2)  # in a token, channels lie before the 2 x 2 positions
    objective = (per_location * (1 + alpha * band) * weight[:, None, None]).mean()
    inside = band.detach()
    detached = per_location.detach()
    return LossParts(
        objective=objective,
        plain=detached.mean(),
        band=(detached * inside).sum() / inside.sum(),
        interior=(detached * (1 - inside)).sum() / (1 - inside).sum(),
    )


def sample_sigma(settings: LossSettings, generator: torch.Generator) -> float:
    """One noise level in (0, 1]: uniform in the paper, else logit-normal; then shifted."""
    if settings.sigma == "uniform":
        sigma = 1.0 - float(torch.rand((), generator=generator, dtype=torch.float64))
    else:
        normal = float(torch.randn((), generator=generator, dtype=torch.float64))
        sigma = 1.0 / (1.0 + math.exp(-(settings.logit_mean + settings.logit_std * normal)))
    return shifted(settings, sigma)


def shifted(settings: LossSettings, sigma: float) -> float:
    """`s * sigma / (1 + (s - 1) * sigma)`: s > 1 moves levels towards noise."""
    return settings.shift * sigma / (1 + (settings.shift - 1) * sigma)


def sigma_weight(settings: LossSettings, sigma: float) -> float:
    """Factor on a sample's loss at this noise level; 1 in the paper."""
    if settings.weighting == "none":
        return 1.0
    return 2.0 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
