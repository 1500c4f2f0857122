"""Raw drift: what the model did to pixels it should have left alone, before paste-back hid it.

In the published image this is always zero. Seen in the patch, it is the earliest sign of a wrong library version,
adapter or scheduler. For edits made by another tool (two folders) the same figures are taken from its output.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.difference import sampled_de00, ssim_map, whole_windows
from refine_ops.records import Alignment, Mask, U8Image

_MIN_KNOWN_PX = 256
_ECC_BLUR_PX = 5
_LEAST_CORRELATION = 0.8
_SAME_SCALE = 1.01
_WORTH_A_STRETCH = 0.4
"""A warp that stretches one axis over 1 % more than the other must leave less than this share of what a shift leaves
unexplained."""
_MAX_SIDE_PX = 512
"""Geometry is estimated on at most this many pixels a side; ECC is sub-pixel well below 0.1 px there."""

_Warp = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Drift:
    """`shift_px` in native pixels, `scale_pct` in % (0: none), CIEDE2000 median and 95th percentile over the known
    pixels, SSIM over windows that lie wholly in them. None is 'not measured'."""

    shift_px: float | None
    scale_pct: float | None
    de00: float | None
    de00_p95: float | None = None
    ssim: float | None = None


def from_alignment(alignment: Alignment) -> Drift | None:
    """The figures the worker's `align` step recorded; None where it could not measure."""
    if not alignment.measured:
        return None
    return Drift(alignment.shift_px, abs(alignment.scale - 1.0) * 100.0, alignment.de00_before)


def measure_drift(before: U8Image, after: U8Image, known: Mask) -> Drift | None:
    """Compare `uint8 (H, W, 3)` images where `known` (`bool (H, W)`) says nothing should have changed.

    Returns:
        None with fewer than 256 known pixels.
    """
    if int(known.sum()) < _MIN_KNOWN_PX:
        return None
    if np.array_equal(before[known], after[known]):
        return Drift(0.0, 0.0, 0.0, 0.0, 1.0)
    colour = sampled_de00(before, after, known)
    grey_before, grey_after = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (before, after))
    whole = whole_windows(known)
    geometry = _geometry(grey_before, grey_after, known)
    return Drift(
        shift_px=geometry[0] if geometry else None,
        scale_pct=geometry[1] if geometry else None,
        de00=float(np.median(colour)),
        de00_p95=float(np.percentile(colour, 95)),
        ssim=float(ssim_map(grey_before, grey_after)[whole].mean()) if whole.any() else None,
    )


def _geometry(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], known: Mask
) -> tuple[float, float] | None:
    """Shift at the centre (native px) and scale error (%), by ECC on the known pixels; None where it does not hold.

    ECC maximises correlation, so a tone change does not read as a shift; flat pictures have nothing to hold on to. A
    shift is tried first: in a picture with little to hold on to, an affine warp stretches off for next to no gain.
    """
    factor = min(1.0, _MAX_SIDE_PX / max(before.shape))
    if factor < 1.0:
        size = (round(before.shape[1] * factor), round(before.shape[0] * factor))
        before, after = (cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in (before, after))
        known = cv2.resize(known.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    if before[known].std() < 2.0:
        return None
    found = _ecc(before, after, known, cv2.MOTION_TRANSLATION, np.eye(2, 3, dtype=np.float32))
    refined = _ecc(before, after, known, cv2.MOTION_AFFINE, found[1] if found else np.eye(2, 3, dtype=np.float32))
    if refined and (found is None or _credible(refined, found)):
        found = refined
    if found is None or found[0] < _LEAST_CORRELATION:
        return None
    warp = found[1]
    centre = np.array([before.shape[1] / 2, before.shape[0] / 2, 1.0])
    shift = warp @ centre - centre[:2]
    scale = float(np.sqrt(abs(np.linalg.det(warp[:, :2]))))
    return float(np.hypot(*shift)) / factor, abs(scale - 1.0) * 100.0


def _credible(warped: tuple[float, _Warp], shifted: tuple[float, _Warp]) -> bool:
    larger, smaller = np.linalg.svd(warped[1][:, :2], compute_uv=False)
    unexplained = (1.0 - warped[0]) / max(1.0 - shifted[0], 1e-9)
    return bool(larger < _SAME_SCALE * smaller or unexplained < _WORTH_A_STRETCH)


def _ecc(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], known: Mask, motion: int, start: _Warp
) -> tuple[float, _Warp] | None:
    """Correlation and warp `(2, 3)` from `before` to `after`; None where ECC does not converge."""
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
    try:
        correlation, warp = cv2.findTransformECC(
            before, after, start.copy(), motion, stop, known.astype(np.uint8) * 255, _ECC_BLUR_PX
        )
    except cv2.error:
        return None
    return float(correlation), np.asarray(warp, np.float32)
