"""A colour shift between two pictures of the same thing: fitted robustly in linear light, and undone."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.difference import de00
from refine_ops.image.formats.native import F32
from refine_ops.records import F32Image, Mask, U8Image

IDENTITY: Final = np.eye(3, 4, dtype=np.float32)
_SAMPLES: Final = 20_000
_BLUR_PX: Final = 5
_ROUNDS: Final = 8
_RIDGE: Final = 3e-6
"""Pull towards identity, as a variance in linear light: colours the known pixels do not show are not extrapolated."""
_NOISE_RIDGE: Final = 10.0
"""The pull grows with the residual's variance: on a flat, noisy ring a regression would see noise as lost contrast."""
_FIRST_NOISE: Final = 1e-5
_GAINS_ONLY: Final = 1e6
"""Penalty on mixing channels and on offsets that leaves a gain per channel."""
_MIN_DE00: Final = 0.75
_MAX_RATIO: Final = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """`matrix` (3x4, linear light) maps the seen colours to the true ones; medians of CIEDE2000 on known pixels."""

    matrix: F32
    de00_before: float
    de00_after: float
    worthwhile: bool
    """Visible before, within the limit, and at least 40 % smaller after."""


def fit(truth: U8Image, seen: F32, known: Mask, *, max_de00: float) -> Shift:
    """The 3x4 matrix that maps `seen` (sRGB, [0, 1]) to `truth` on the known pixels.

    A gain per channel if that explains the shift, else a full matrix: on a ring of one colour both fit equally, and
    only the gain is right about the colours inside. Ridge regression towards identity with iteratively reweighted
    residuals (Cauchy), on lightly blurred pictures, so that changed content and noise weigh little.
    """
    wanted, got = _blurred_samples(truth.astype(np.float32) / np.float32(255), seen, known)
    linear_got, linear_wanted = to_linear(got), to_linear(wanted)
    before = _median_de00(wanted, got)
    matrix = _robust_matrix(linear_got, linear_wanted, _GAINS_ONLY)
    after = _median_de00(wanted, apply(got, matrix))
    if after > _MIN_DE00 / 2:
        full = _robust_matrix(linear_got, linear_wanted, 1.0)
        after_full = _median_de00(wanted, apply(got, full))
        if after_full <= _MAX_RATIO * after:
            matrix, after = full, after_full
    worthwhile = _MIN_DE00 <= before <= max_de00 and after <= _MAX_RATIO * before
    return Shift(matrix, before, after, worthwhile)


def apply(rgb: F32Image, matrix: F32) -> F32:
    """`rgb` (sRGB, any leading shape, [0, 1]) with the matrix applied in linear light, clipped to [0, 1]."""
    linear = to_linear(rgb)
    return to_srgb(linear @ matrix[:, :3].T + matrix[:, 3])


def to_linear(rgb: npt.NDArray[np.float32]) -> F32:
    """IEC 61966-2-1 decoding."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4))


def to_srgb(linear: npt.NDArray[np.float32]) -> F32:
    """IEC 61966-2-1 encoding, clipped to [0, 1]."""
    linear = np.clip(linear, 0, 1)
    curve = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= 0.0031308, linear * np.float32(12.92), curve)


def _blurred_samples(truth: F32, seen: F32, known: Mask) -> tuple[F32, F32]:
    """Known pixels of both, each averaged over its known neighbours; at most 20,000, evenly spread. `(N, 3)` each."""
    # Divided by the blurred weight, so that unknown neighbours (the edit itself) do not bleed into known means.
    weight = known.astype(np.float32)
    total = np.maximum(cv2.blur(weight, (_BLUR_PX, _BLUR_PX)), 1e-6)[:, :, None]
    means = [cv2.blur(p * weight[:, :, None], (_BLUR_PX, _BLUR_PX)) / total for p in (truth, seen)]
    at = np.flatnonzero(known)
    at = at[:: max(1, len(at) // _SAMPLES)]
    wanted, got = (np.clip(m.reshape(-1, 3)[at], 0, 1) for m in means)
    return wanted, got


def _robust_matrix(got: F32, wanted: F32, penalty: float) -> F32:
    """Per channel, ridge regression of the difference on (r, g, b, 1), reweighted by how far each pixel is off.

    `penalty` multiplies the pull to zero of everything but the channel's own gain.
    """
    design = np.concatenate([got, np.ones((len(got), 1), np.float32)], axis=1).astype(np.float64)
    difference = (wanted - got).astype(np.float64)
    weight, noise = np.ones(len(got)), _FIRST_NOISE
    # The difference is regressed, not the colour: with little evidence the ridge then pulls towards "no shift".
    change = np.zeros((4, 3))
    for _ in range(_ROUNDS):
        weighted = design * (weight / weight.sum())[:, None]
        gram, target = weighted.T @ design, weighted.T @ difference
        ridge = _RIDGE + _NOISE_RIDGE * noise
        for channel in range(3):
            pull = ridge * np.where(np.arange(4) == channel, 1.0, penalty)
            change[:, channel] = np.linalg.solve(gram + np.diag(pull), target[:, channel])
        distance = np.linalg.norm(difference - design @ change, axis=1)
        spread = max(1.4826 * float(np.median(distance)), 1e-4)  # sigma of a normal, from its median deviation
        noise = spread**2 / 3
        weight = 1 / (1 + (distance / spread) ** 2)
    return (IDENTITY + change.T).astype(np.float32)


def _median_de00(wanted: F32, got: F32) -> float:
    return float(np.median(de00(wanted, got)))
