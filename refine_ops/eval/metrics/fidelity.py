"""Fidelity of the refined region to the ground truth, in the object box, without any model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from refine_ops.eval.metrics.metric import CaseBatch, Metric, Scores, to_tensor
from refine_ops.eval.metrics.ssim import WINDOW, ssim_map

PSNR_CAP_DB: Final = 100.0
"""PSNR of identical boxes; the least difference there is, one step in one channel, gives at most 93 dB up to 100^2."""
MSE = Metric("mse", 1, "MSE", "lower", "region", "mean squared error in the box, pixels in [0, 1]")
PSNR = Metric("psnr", 1, "PSNR", "higher", "region", "dB in the box from its MSE, capped at 100")
SSIM = Metric("ssim", 1, "SSIM", "higher", "region", "Wang et al. SSIM in the box, mean over channels")
MASK_PSNR = Metric("psnr_mask", 1, "PSNR_M", "higher", "region", "dB over the mask M alone, capped at 100")


@dataclass(frozen=True, slots=True)
class RegionMeter:
    """MSE, PSNR and SSIM in the object box; PSNR over the mask."""

    device: torch.device
    metrics: tuple[Metric, ...] = (MSE, PSNR, SSIM, MASK_PSNR)
    source: str = "refine-ops"
    repeatable: bool = True
    missing: str = ""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        ours = to_tensor(batch.crop(batch.outputs), self.device, torch.float64)
        truth = to_tensor(batch.crop(batch.target), self.device, torch.float64)
        mse = ((ours - truth) ** 2).mean((1, 2, 3)).cpu().numpy()
        ssim = np.full(len(batch), np.nan)
        if min(ours.shape[-2:]) >= WINDOW:
            ssim = ssim_map(ours, truth).mean((1, 2)).cpu().numpy()
        masked = np.array(
            [_masked_mse(o, t, m) for o, t, m in zip(batch.outputs, batch.target, batch.mask, strict=True)]
        )
        return {"mse": mse, "psnr": psnr(mse), "ssim": ssim, "psnr_mask": psnr(masked)}


def psnr(mse: Scores) -> Scores:
    """dB of `mse` in [0, 1] units; 0 gives `PSNR_CAP_DB`."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(-10 * np.log10(mse), PSNR_CAP_DB), np.float64)


def _masked_mse(output: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    difference = output[mask].astype(np.float64) - target[mask]
    return float((difference**2).mean() / 255**2)
