"""Seam: does the paste-back show along the mask boundary, beyond what the source shows there?"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from refine_ops.records import Mask, U8Image

SEGMENT_PX = 48
"""Length of boundary a step must be coherent over: texture and single edges average out, a paste's rim does not."""
STEP_PX = 2
"""Distance over which a jump is taken, across the boundary."""
VISIBLE_DE = 1.5
"""An excess seen at a glance; restorations of 150 heavily blurred photo regions under the real blend reach 1.0."""
_MIN_POINTS = 8
_INNER_PX = 3
_SIDE_PX = 8
_MASKING = 1.25
_MASKING_REACH_PX = 2
_DEPTHS_PX = ((6, 12), (12, 18))
_LEAST_INSIDE = 0.25

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seam:
    """The excess of the colour jump across the boundary over the same boundary in the source.

    `de` is the magnitude (CIE76) at the worst segment, `share` the ratio of the boundary with a visible excess,
    `worst` the polyline of the worst segment in pixels of the given arrays.
    """

    de: float
    share: float
    worst: tuple[tuple[int, int], ...]


def measure_seam(before: U8Image, after: U8Image, mask: Mask, reach_px: int) -> Seam | None:
    """Compare the jump across every place of the boundary band before and after.

    The band reaches from 3 px inside the mask to `reach_px` + 2 px outside: a blended paste can only show there. At
    every boundary point and offset, Lab differences along the outward normal are averaged, as vectors, along 48 px of
    boundary, and two norms are taken: the jump over 2 px (abrupt), and the mean of the 8 px inside minus the 8 px
    outside (a step in tone; sharpened detail has no mean). Three quarters of the 48 px must show it, else an edge
    merely crosses. From each, 1.25 times the source's largest one within 2 px is taken off: an edge that was there
    hides one, and a soft edge made crisp is no seam. The third number is how far the change carries on inward, 6 to 12
    and 12 to 18 px deep: a paste's tone does, an edge of the picture restored along the boundary does not. The score is
    the smallest; a mask too thin to have that depth does without the third.

    Args:
        before, after: `uint8 (H, W, 3)` of the same place.
        mask: `bool (H, W)`, what was pasted back.
        reach_px: how far past the mask the blend reaches.

    Returns:
        None where fewer than 8 boundary points have their whole band inside the array (the image's own border is no
        seam).
    """
    offsets = np.arange(-_INNER_PX - _SIDE_PX, reach_px + STEP_PX + _SIDE_PX + 1, dtype=np.float32)
    slopes = _slopes(mask)
    lab_before, lab_after = _lab(before), _lab(after)
    change, inside_mask = lab_after - lab_before, mask.astype(np.float32)
    worst, visible, measured = 0.0, 0, 0
    line_of_worst: tuple[tuple[int, int], ...] = ()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        line = contour[:, 0, :].astype(np.int32)
        normals = _outward_normals(slopes, line)
        grid = _band(line, normals, offsets)
        inside = (grid >= 0) & (grid <= (mask.shape[1] - 1, mask.shape[0] - 1))
        valid = np.asarray(inside[:, _SIDE_PX:-_SIDE_PX].all(axis=(1, 2)))
        if valid.sum() < _MIN_POINTS:
            continue
        deep = _band(line, normals, np.arange(-_DEPTHS_PX[-1][1], 0, dtype=np.float32))
        carried = _carried(_sample(change, deep), _sample(inside_mask, deep) * valid[:, None])
        score = _score(_sample(lab_before, grid), _sample(lab_after, grid), carried, valid)
        visible += int((score >= VISIBLE_DE).sum())
        measured += int(valid.sum())
        if not line_of_worst or score.max() > worst:
            worst, line_of_worst = float(score.max()), _segment(line, valid, int(score.argmax()))
    return Seam(max(0.0, worst), visible / measured, line_of_worst) if measured else None


def _lab(rgb: U8Image) -> _Floats:
    lab: _Floats = cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    return lab


def _slopes(mask: Mask) -> tuple[_Floats, _Floats]:
    """Gradient `(H, W)` along x and y of the distance out of the mask, smoothed so that pixel stairs do not show."""
    inside = mask.astype(np.uint8)
    distance = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5) - cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    smooth = cv2.GaussianBlur(distance, (0, 0), 2.0)
    return np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 1, 0)), np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


def _outward_normals(slopes: tuple[_Floats, _Floats], line: npt.NDArray[np.int32]) -> _Floats:
    """Unit normals `(K, 2)` as (x, y), pointing out of the mask, at the points of `line`."""
    normal = np.stack([slope[line[:, 1], line[:, 0]] for slope in slopes], axis=1)
    return np.asarray(normal / np.maximum(_norm(normal), 1e-6)[:, None], np.float32)


def _norm(vectors: _Floats) -> _Floats:
    """Lengths along the last axis; `np.linalg.norm` takes up to three times as long on such short ones."""
    return np.asarray(np.sqrt(np.einsum("...c,...c->...", vectors, vectors)), np.float32)


def _band(line: npt.NDArray[np.int32], normals: _Floats, offsets: _Floats) -> _Floats:
    """Coordinates `(K, T, 2)` of the band: for each of K boundary points, T places along its normal."""
    return np.asarray(line[:, None, :] + offsets[None, :, None] * normals[:, None, :], np.float32)


def _sample(plane: _Floats, grid: _Floats) -> _Floats:
    band: _Floats = cv2.remap(plane, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return band


def _score(before: _Floats, after: _Floats, carried: list[_Floats], valid: npt.NDArray[np.bool_]) -> _Floats:
    """Score `(K,)` of each boundary point: the worst offset of its band, 0 where the band leaves the image."""
    inner, outer = _SIDE_PX - STEP_PX // 2, -_SIDE_PX + STEP_PX // 2
    jumps = _quarters(_jump(after), valid)[:, :, inner:outer]
    jump = _excess(_quarters(_jump(before), valid), jumps, slice(inner, outer))
    step = _excess(_quarters(_step(before), valid), _quarters(_step(after), valid))
    inward = -jumps.mean(axis=0)
    inward /= np.maximum(_norm(inward), 1e-6)[..., None]
    along = [np.einsum("kc,ktc->kt", change, inward) for change in carried]
    score = np.minimum.reduce([jump, step, *(np.where(np.isnan(c), np.inf, c) for c in along)])
    return np.where(valid, score.max(axis=1), 0.0).astype(np.float32)


def _carried(change: _Floats, inside: _Floats) -> list[_Floats]:
    """Mean change `(K, 3)` of each depth over 48 px of boundary; NaN where too little of it lies inside the mask.

    Args:
        change: `(K, 18, 3)`, after minus before along the inward normal, deepest first.
        inside: `(K, 18)`, what counts of it.
    """
    found = []
    for near, far in _DEPTHS_PX:
        depth = slice(_DEPTHS_PX[-1][1] - far, _DEPTHS_PX[-1][1] - near)
        weight = inside[:, depth].mean(axis=1)
        total = (change[:, depth] * inside[:, depth, None]).mean(axis=1)
        length = min(SEGMENT_PX, len(weight))
        weight, total = (uniform_filter1d(v, length, axis=0, mode="wrap") for v in (weight, total))
        mean = total / np.maximum(weight, _LEAST_INSIDE)[:, None]
        found.append(np.where(weight[:, None] < _LEAST_INSIDE, np.float32(np.nan), mean))
    return found


def _jump(band: _Floats) -> _Floats:
    """Lab difference `(K, T - 2, 3)` over 2 px across."""
    return band[:, STEP_PX:] - band[:, :-STEP_PX]


def _step(band: _Floats) -> _Floats:
    """Lab difference `(K, T - 16, 3)` between the means of the 8 px on either side."""
    total = np.cumsum(np.pad(band, ((0, 0), (1, 0), (0, 0))), axis=1)
    mean = (total[:, _SIDE_PX:] - total[:, :-_SIDE_PX]) / _SIDE_PX
    return np.asarray(mean[:, _SIDE_PX + 1 :] - mean[:, : -_SIDE_PX - 1], np.float32)


def _quarters(values: _Floats, valid: npt.NDArray[np.bool_]) -> _Floats:
    """Means `(4, K, T, 3)` over the four quarters of the 48 px of closed boundary around each point."""
    quarter = max(1, min(SEGMENT_PX, len(values)) // 4)
    weight = uniform_filter1d(valid.astype(np.float32), quarter, mode="wrap")
    total = uniform_filter1d(values * valid[:, None, None], quarter, axis=0, mode="wrap")
    mean = total / np.maximum(weight, 0.25)[:, None, None]
    shifts = (-3 * quarter // 2, -quarter // 2, quarter // 2, 3 * quarter // 2)
    return np.stack([np.roll(mean, shift, axis=0) for shift in shifts])


def _excess(before: _Floats, after: _Floats, part: slice = slice(None)) -> _Floats:
    """CIE76 `(K, T)` by which `after` stands out, from quarter means: no more than three of the four show in the
    common direction (an edge that merely crosses fills one or two), less what the source had nearby. `part` is the
    offsets of `before` that `after` has."""
    mean = after.mean(axis=0)
    size = _norm(mean)
    along = (after * (mean / np.maximum(size, 1e-6)[..., None])).sum(axis=-1)
    steady = np.minimum(size, np.sort(along, axis=0)[1])
    own = _norm(before.mean(axis=0))
    nearby = maximum_filter1d(own, 2 * _MASKING_REACH_PX + 1, axis=1)[:, part]
    return np.asarray(steady - _MASKING * nearby, np.float32)


def _segment(line: npt.NDArray[np.int32], valid: npt.NDArray[np.bool_], worst: int) -> tuple[tuple[int, int], ...]:
    """The measured boundary within 24 px of its point `worst`, every fourth pixel."""
    reach = min(SEGMENT_PX, len(line)) // 2
    around = (worst + np.arange(-reach, reach + 1, 4)) % len(line)
    return tuple((int(x), int(y)) for x, y in line[around[valid[around]]])
