"""Detail gained and lost, by bands of size, told apart from noise and JPEG blocks.

A band is what lies between two blurs (1, 2, 4 and 8 px: what an eye sees of a product at full size). Its energy is
taken in windows, so that what is smeared in one place is not made good by an edge in another. Noise is what the
quietest windows hold of a band, and JPEG blocks are steps on their own grid: neither counts as detail, so a picture
that lost only them has lost nothing.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.records import Mask

Plane = npt.NDArray[np.float32]
"""Brightness `float32 (h, w)` in levels of 255."""

_SIGMAS_PX: Final = (1.0, 2.0, 4.0)
_WINDOW: Final = 4.0
"""Sigma of a band's windows over the band's own."""
_QUIET: Final = 0.1
"""Share of the windows that are taken for flat."""
_MOST_NOISE: Final = 6.0
"""Standard deviation, in levels, that noise of the finest band is taken to have at most: beyond, it is texture."""
_FLOOR: Final = 0.3
"""Standard deviation, in levels, that eight bits leave of anything."""
_BLOCK_PX: Final = 8
_BLOCKY: Final = 1.35
"""Steps on the grid over steps beside it, from which on a picture counts as coded in blocks."""
_BLURS_PX: Final = (0.8, 1.4, 2.2, 3.2)
_LEAST_PIXELS: Final = 64
_RING_PX: Final = 24


@dataclass(frozen=True, slots=True)
class Detail:
    """As `Evidence` has them: `lost` in [0, 1], `gained`, `around` and sharpness in log2, `grain` in 1/255, the rest in
    [-1, 1]. What compares with the surroundings is None where too little of them is left."""

    lost: float
    gained: float
    kept: float
    sharpness_before: float
    sharpness_after: float
    sharpness_around: float | None
    explained: float
    around: float | None
    grain: float | None


def measure_detail(before: Plane, after: Plane, mask: Mask) -> Detail:
    """Compare the pixels of `mask` (not empty) in two pictures; what lies around it is the same in both."""
    looked = mask & ~_on_blocks(before)
    looked = looked if np.count_nonzero(looked) >= _LEAST_PIXELS else mask
    ring = _ring(mask)
    one, two = _bands(before), _bands(after)
    zero = np.zeros_like(before)
    noise = [_noise(band, mask) for band in (*one[:1], *two[:1])]
    lost = 0.0
    of_bands, outside = [], []
    for sigma, b, a in zip(_SIGMAS_PX, one, two, strict=True):
        energies = [_windows(np.square(band), sigma) for band in (b, a)]
        # White noise of the finest band leaves about a quarter of its energy in each next one.
        floors = [max(n * n, _FLOOR**2) / sigma**2 for n in noise]
        e_b, e_a = (np.maximum(e - floor, 0) for e, floor in zip(energies, floors, strict=True))
        lost += float(np.maximum(e_b - e_a, 0)[looked].mean())
        of_bands.append((float(e_b[looked].mean()), float(e_a[looked].mean())))
        if ring is not None:
            outside.append(float(np.maximum(energies[0] - floors[0], 0)[ring].mean()))
    was, now = (sum(energies) for energies in zip(*of_bands, strict=True))
    return Detail(
        lost=lost / (was + _FLOOR**2),
        gained=_octaves(now, was),
        kept=_correlation(one[0] + one[1], two[0] + two[1], looked),
        sharpness_before=_octaves(of_bands[0][0], of_bands[1][0]),
        sharpness_after=_octaves(of_bands[0][1], of_bands[1][1]),
        sharpness_around=None if ring is None else _octaves(outside[0], outside[1]),
        explained=_explained(sum(one, zero), sum(two, zero), looked),
        around=None if ring is None else _octaves(now, sum(outside)),
        grain=None if ring is None else noise[1] - _noise(one[0], ring),
    )


def _bands(plane: Plane) -> list[Plane]:
    blurred = [plane]
    for sigma, last in zip(_SIGMAS_PX, (0.0, *_SIGMAS_PX), strict=False):
        blurred.append(_blurred(blurred[-1], float(np.sqrt(sigma**2 - last**2))))
    return [np.asarray(fine - coarse, np.float32) for fine, coarse in pairwise(blurred)]


def _windows(energy: Plane, sigma: float) -> Plane:
    side = round(_WINDOW * sigma) | 1
    return np.asarray(cv2.blur(energy, (side, side)), np.float32)


def _noise(band: Plane, part: Mask) -> float:
    """Standard deviation of the finest band in the part's quietest windows."""
    quiet = float(np.quantile(_windows(np.square(band), 2.0)[part], _QUIET))
    return min(float(np.sqrt(max(quiet, 0.0))), _MOST_NOISE)


def _ring(mask: Mask) -> Mask | None:
    """The pixels within 24 px of the mask that the blend does not reach; None where there are too few."""
    inside = mask.astype(np.uint8)
    near = cv2.dilate(inside, np.ones((2 * _RING_PX + 1,) * 2, np.uint8)) > 0
    ring = near & ~(cv2.dilate(inside, np.ones((17, 17), np.uint8)) > 0)
    return ring if np.count_nonzero(ring) >= _LEAST_PIXELS else None


def _octaves(energy: float, other: float) -> float:
    """Half the log2 of a ratio of energies: the log2 of a ratio of contrasts."""
    return float(0.5 * np.log2((energy + _FLOOR**2) / (other + _FLOOR**2)))


def _correlation(one: Plane, two: Plane, part: Mask) -> float:
    a, b = one[part], two[part]
    a, b = a - a.mean(), b - b.mean()
    own = max(float(np.sqrt(float(a @ a) * float(b @ b))), _FLOOR**2 * len(a))
    return float(a @ b) / own


def _explained(before: Plane, after: Plane, part: Mask) -> float:
    """Correlation of the picture before with the one after (both without their tone), blurred by what fits best: what
    is restored, if it is blurred again, gives back what was there."""
    found, last = [_correlation(before, after, part)], 0.0
    for sigma in _BLURS_PX:
        after, last = _blurred(after, float(np.sqrt(sigma**2 - last**2))), sigma
        found.append(_correlation(before, after, part))
    return max(found)


def _blurred(plane: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def _on_blocks(plane: Plane) -> Mask:
    """Where a JPEG's blocks meet, 2 px wide; nothing where no grid of 8 px stands out."""
    found = np.zeros(plane.shape, np.bool_)
    for axis in (0, 1):
        steps = np.abs(np.diff(plane, axis=axis)).mean(axis=1 - axis)
        usable = steps[: len(steps) // _BLOCK_PX * _BLOCK_PX]
        if usable.size < 2 * _BLOCK_PX:
            continue
        phases = np.median(usable.reshape(-1, _BLOCK_PX), axis=0)
        worst = int(phases.argmax())
        if phases[worst] > _BLOCKY * float(np.median(phases)) + 0.1:
            lines = np.arange(worst, plane.shape[axis] - 1, _BLOCK_PX)
            for offset in (0, 1):
                index = [slice(None), slice(None)]
                index[axis] = lines + offset  # type: ignore[call-overload]
                found[tuple(index)] = True
    return found
