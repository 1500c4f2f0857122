"""What happened to the rest of the picture: as the paper measures it, strictly, and along the seam."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.eval.metrics.metric import CaseBatch, Metric, Scores
from refine_ops.image.difference import WINDOW_PX, inner, ssim_of_change, whole_windows
from refine_ops.records import Mask

MSE_BG = Metric("mse_bg", 1, "MSE_bg", "lower", "background", "MSE to the input outside the box, pixels in [0, 1]")
SSIM_BG = Metric(
    "ssim_bg", 1, "SSIM_bg", "higher", "background",
    "SSIM to the input over the whole image, the input's box put into both: 1 for an identical background",
)  # fmt: skip
CHANGED_OUTSIDE_PX = Metric(
    "changed_outside_px", 1, "changed outside, px", "lower", "strict", "pixels changed outside the allowed change"
)
MAX_DIFF_OUTSIDE = Metric(
    "max_diff_outside", 1, "max diff outside", "lower", "strict", "largest difference there, in 1/255"
)
SSIM_STRICT = Metric(
    "ssim_strict", 2, "SSIM strict", "higher", "strict", "SSIM to the input, windows wholly outside the allowed change"
)
SEAM = Metric(
    "seam", 1, "seam", "lower", "region",
    "energy of the gradient's error across M's outline: RMS of (step across it - the truth's step), in 1/255",
)  # fmt: skip


METRICS: Final = (MSE_BG, SSIM_BG, CHANGED_OUTSIDE_PX, MAX_DIFF_OUTSIDE, SSIM_STRICT, SEAM)


@dataclass(frozen=True, slots=True)
class BackgroundMeter:
    """Background metrics against the input, and the seam against the ground truth."""

    metrics: tuple[Metric, ...] = METRICS
    source: str = "refine-ops"
    repeatable: bool = True
    missing: str = ""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        difference = np.abs(batch.outputs.astype(np.int16) - batch.inputs)
        outside_box = batch.outside_box()
        mse_bg = np.full(len(batch), np.nan)
        if outside_box.any():
            mse_bg = (difference[:, outside_box].astype(np.float64) ** 2).mean((1, 2)) / 255**2
        leaked = difference.max(-1) * ~batch.allowed
        ssim_bg, ssim_strict = self._similarities(batch)
        pairs = zip(batch.outputs, batch.target, batch.mask, strict=True)
        return {
            "mse_bg": mse_bg,
            "ssim_bg": ssim_bg,
            "changed_outside_px": (leaked > 0).sum((1, 2)).astype(np.float64),
            "max_diff_outside": leaked.max((1, 2)).astype(np.float64),
            "ssim_strict": ssim_strict,
            "seam": np.array([seam_energy(o, t, m) for o, t, m in pairs]),
        }

    def _similarities(self, batch: CaseBatch) -> tuple[Scores, Scores]:
        """Over the whole image with the input's box in both, and over the windows wholly outside the allowed change."""
        if min(batch.outputs.shape[1:3]) < WINDOW_PX:
            return np.full(len(batch), np.nan), np.full(len(batch), np.nan)
        pasted = batch.with_input_foreground(batch.outputs)
        paper = [ssim_of_change(p, i).mean() for p, i in zip(pasted, batch.inputs, strict=True)]
        strict = [_mean_in(inner(whole_windows(~a)), ssim_of_change(o, i))
                  for o, i, a in zip(batch.outputs, batch.inputs, batch.allowed, strict=True)]  # fmt: skip
        return np.array(paper), np.array(strict)


def _mean_in(where: Mask, values: Scores) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def seam_energy(output: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """RMS of the step's error over the 4-neighbour pairs across the outline of `mask (H, W)`, in 1/255.

    0 for the ground truth; NaN where the mask covers the whole image and has no outline.
    """
    error = output.astype(np.float64) - target
    across = [
        (error[:, 1:] - error[:, :-1])[mask[:, 1:] != mask[:, :-1]],
        (error[1:] - error[:-1])[mask[1:] != mask[:-1]],
    ]
    steps = np.concatenate(across)
    return float(np.sqrt((steps**2).mean())) if steps.size else float("nan")
