"""Fidelity of the refined region to the ground truth, in the object box, without any model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refine_ops.eval.metrics.metric import CaseBatch, Metric, Scores
from refine_ops.image.difference import WINDOW_PX, inner, mean_squared_error, psnr, ssim_map
from refine_ops.records import U8Image

MSE = Metric("mse", 1, "MSE", "lower", "region", "mean squared error in the box, pixels in [0, 1]")
PSNR = Metric("psnr", 1, "PSNR", "higher", "region", "dB in the box from its MSE, capped at 100")
SSIM = Metric("ssim", 1, "SSIM", "higher", "region", "Wang et al. SSIM in the box, mean over channels")
MASK_PSNR = Metric("psnr_mask", 1, "PSNR_M", "higher", "region", "dB over the mask M alone, capped at 100")


@dataclass(frozen=True, slots=True)
class RegionMeter:
    """MSE, PSNR and SSIM in the object box; PSNR over the mask."""

    metrics: tuple[Metric, ...] = (MSE, PSNR, SSIM, MASK_PSNR)
    source: str = "refine-ops"
    repeatable: bool = True
    missing: str = ""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        boxes = list(zip(batch.crop(batch.outputs), batch.crop(batch.target), strict=True))
        masked = zip(batch.outputs, batch.target, batch.mask, strict=True)
        return {
            "mse": np.array([mean_squared_error(ours, truth) for ours, truth in boxes]),
            "psnr": np.array([psnr(ours, truth) for ours, truth in boxes]),
            "ssim": np.array([_ssim(ours, truth) for ours, truth in boxes]),
            "psnr_mask": np.array([psnr(*images) for images in masked]),
        }


def _ssim(ours: U8Image, truth: U8Image) -> float:
    """Mean over the windows in the box; NaN where none fits in."""
    if min(ours.shape[:2]) < WINDOW_PX:
        return float("nan")
    return float(inner(ssim_map(ours.astype(np.float64), truth.astype(np.float64))).mean())
