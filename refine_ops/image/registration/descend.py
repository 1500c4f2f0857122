"""From a coarse pose to a precise one: a homography by Gauss-Newton, coarse to fine, on the pixels that can be trusted.

What is minimised is `sum w rho(view - (g R(G(x)) + o + s.x))`: the reference's tone (a gain g, an offset o and a slope
s per channel) is solved for together with the pose, so a gradient of light moves nothing; w trusts the object's
surroundings, the damaged inside little and at coarse scales only; rho (Cauchy) lets go of what the two pictures do
not share. The gradient is the mean of both pictures' (efficient second-order minimisation, Malis 2004), which widens
the basin that OpenCV's ECC has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.formats.native import F32
from refine_ops.image.registration.frames import Homography, centre_of, inverse, resized, scale_at
from refine_ops.records import Mask, U8Image

BLUR_PX: Final = 1.0
"""Both pictures' blur at every scale, in that scale's pixels."""
_DECAY: Final = 1.1
"""Pixels count less the farther they lie from the mask's middle: half its longer side times this is one sigma."""
_INSIDE: Final = ((48, 0.7), (96, 0.4), (10_000, 0.15))
"""What a pixel inside the mask counts by the view's longer side, in px: coarse shape much, damaged detail little."""
_CAUCHY: Final = 2.4
_EDGES: Final = 0.1
"""The least residual scale, as a share of the view's contrast: on a flat mark the median is noise, and the edges of
a blurred one, all there is to see, would count as outliers."""
_MIN_STEP_PX: Final = 0.02
_SLACK: Final = 0.004
"""A step is kept that lowers the correlation by less: what is minimised is the robust sum, not the correlation."""
_DAMPING: Final = 1e-3
_TILT: Final = 0.06
"""Spread of the perspective expected, over half the mask's side: what little there is to see must not bend the pose."""
_CORRELATED_PX: Final = 12.0
"""Pixels that share one error: both pictures are blurred, so neighbours are not independent."""
_LONGEST_STEP: Final = 0.35
"""Of any coordinate of a step, in halves of the mask's side."""
_LEAST_PIXELS: Final = 40


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Reference -> view, and the robust correlation that the last scale ended with, in [-1, 1]."""

    matrix: Homography
    score: float


class Pictures:
    """A view with its mask and a reference, each prepared at the scales asked for; made once per pair."""

    def __init__(
        self, view: U8Image, mask: Mask, reference: U8Image, valid: Mask | None = None, inside: float | None = None
    ) -> None:
        """`inside`: what a masked pixel counts, where it is known better than by `_INSIDE`."""
        self.view, self.mask, self.reference, self.valid, self.inside = view, mask, reference, valid, inside
        self._views: dict[tuple[int, bool], _View] = {}
        self._references: dict[float, tuple[F32, F32, Homography]] = {}

    @cached_property
    def _view_lab(self) -> F32:
        return opponent(self.view)

    @cached_property
    def _reference_lab(self) -> F32:
        return opponent(self.reference)

    def view_at(self, side_px: int, inside: bool) -> "_View":
        if (side_px, inside) not in self._views:
            self._views[side_px, inside] = _View.of(
                self._view_lab, self.mask, side_px, self._within(side_px) if inside else None
            )
        return self._views[side_px, inside]

    def _within(self, side_px: int) -> float:
        return next(weight for limit, weight in _INSIDE if side_px <= limit) if self.inside is None else self.inside

    def reference_at(self, factor: float) -> tuple[F32, F32, Homography]:
        """Reduced by `factor` (in steps of a quarter octave) and blurred; where it is valid; its own -> reduced."""
        factor = min(1.0, float(2.0 ** (round(4 * np.log2(max(factor, 1e-3))) / 4)))
        if factor not in self._references:
            small, scale = resized(self._reference_lab, factor)
            valid = (
                np.ones(self.reference.shape[:2], np.float32) if self.valid is None else self.valid.astype(np.float32)
            )
            there = cv2.resize(valid, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
            self._references[factor] = cv2.GaussianBlur(small, (0, 0), BLUR_PX), np.asarray(there, np.float32), scale
        return self._references[factor]


def opponent(rgb: U8Image) -> F32:
    """Brightness and two colour differences at half weight, `float32 (h, w, 3)`, in levels of 255."""
    r, g, b = (rgb[..., i].astype(np.float32) for i in range(3))
    return np.stack([0.3 * r + 0.59 * g + 0.11 * b, (r - g) / 2, (r + g - 2 * b) / 4], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    pixels: F32
    weight: F32
    scale: Homography
    """The view's own pixels -> this scale's."""
    grid: F32
    """Coordinates about the mask's middle in units of half its side, `(h, w, 2)`."""
    centre: Homography
    """This scale's pixels -> those coordinates."""
    gradient: F32

    @classmethod
    def of(cls, lab: F32, mask: Mask, side_px: int, within: float | None) -> "_View":
        small, scale = resized(lab, side_px / max(mask.shape))
        height, width = small.shape[:2]
        inside = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        (x, y), half = centre_of(mask)
        x, y = scale[0, 0] * x + scale[0, 2], scale[1, 1] * y + scale[1, 2]
        half = half * scale[0, 0]
        xs, ys = np.meshgrid((np.arange(width) - x) / half, (np.arange(height) - y) / half)
        decay = np.exp(-(xs**2 + ys**2) / (2 * (1 + _DECAY) ** 2))
        if within is None:  # nothing of the damage, which the blur carries two pixels out
            inside = cv2.dilate((inside > 0.02).astype(np.float32), np.ones((5, 5), np.uint8))
        weight = (decay * (1 - (1 - (within or 0.0)) * inside)).astype(np.float32)
        centre = np.array([[1 / half, 0, -x / half], [0, 1 / half, -y / half], [0, 0, 1]])
        smooth = cv2.GaussianBlur(small, (0, 0), BLUR_PX)
        return cls(smooth, weight, scale, np.stack([xs, ys], -1).astype(np.float32), centre, _gradient(smooth))


def descend(
    pictures: Pictures,
    matrix: Homography,
    sides_px: Sequence[int],
    rounds: int,
    affine_first: bool,
    inside: bool = True,
) -> Pose:
    """The pose refined at each scale in turn.

    Args:
        matrix: Reference -> view, coarse.
        sides_px: The view's longer side at each scale, rising.
        rounds: Gauss-Newton steps per scale at most.
        affine_first: Hold the perspective at the first scale.
    """
    score = -1.0
    for number, side in enumerate(sides_px):
        matrix, score = _at_scale(pictures, matrix, side, rounds, affine_first and number == 0, inside)
    return Pose(matrix, score)


def score_at(pictures: Pictures, matrix: Homography, side_px: int, inside: bool) -> float:
    """The robust correlation of a pose at one scale, as `descend` ends with."""
    return _at_scale(pictures, matrix, side_px, 0, False, inside)[1]


def _at_scale(
    pictures: Pictures, matrix: Homography, side_px: int, rounds: int, affine: bool, inside: bool
) -> tuple[Homography, float]:
    view = pictures.view_at(side_px, inside)
    middle = inverse(view.centre)[:2, 2]
    at = inverse(view.scale @ matrix)
    source, there, reduced = pictures.reference_at(scale_at(inverse(at), _mapped(at, middle)))
    back = reduced @ at @ inverse(view.centre)  # centred view coordinates -> the reduced reference's pixels
    best, best_score = back, -1.0
    for step in range(rounds + 1):
        warped, known = _warp(source, there, back @ view.centre, view.weight.shape)
        fit = _fit(view, warped, known)
        if fit is None:
            break
        # A step may cost a little and still lead on; a clear loss means that the valley was left.
        if fit.score > best_score - _SLACK:
            best, best_score = back, fit.score
        elif fit.score < best_score - 0.02:
            break
        if step == rounds:
            break
        change = _step(view, fit, warped, affine, back[2, :2] / back[2, 2])
        if change is None:
            break
        back = back @ change
        back /= back[2, 2]
        if np.abs(change - np.eye(3)).max() / view.centre[0, 0] < _MIN_STEP_PX:
            rounds = step + 1  # one more look, to score where it ended
    forward = inverse(inverse(reduced) @ best @ view.centre @ view.scale)
    return forward / forward[2, 2], best_score


def _mapped(matrix: Homography, point: np.ndarray) -> np.ndarray:
    x, y, w = matrix @ np.array([point[0], point[1], 1.0])
    return np.array([x / w, y / w])


def _warp(source: F32, there: F32, back: Homography, shape: tuple[int, ...]) -> tuple[F32, F32]:
    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(source, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    known = cv2.warpPerspective(there, back, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    # The view's blur carries what lies beyond the reference's edge inwards: two pixels of the rim are not compared.
    return warped, cv2.erode((known > 0.99).astype(np.float32), np.ones((5, 5), np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Pixels in use: flat indices and weights `(N,)`; per channel the tone's design `(3, N, 4)`, gain and residual."""

    at: np.ndarray
    weight: F32
    design: F32
    tone: F32
    residual: F32
    spread: float
    score: float


def _fit(view: _View, warped: F32, known: F32) -> _Fit | None:
    """The tone that maps the warped reference to the view, reweighted once, and the correlation that remains."""
    prior = view.weight * known
    at = np.flatnonzero(prior > 0.02)
    if len(at) < _LEAST_PIXELS:
        return None
    base = prior.ravel()[at]
    wanted = np.ascontiguousarray(view.pixels.reshape(-1, 3)[at].T)
    design = np.empty((3, len(at), 4), np.float32)
    design[..., 0] = warped.reshape(-1, 3)[at].T
    design[..., 1] = 1
    design[..., 2:] = view.grid.reshape(-1, 2)[at]
    # Compared with the picture's own variance, so that a flat view cannot be "explained" by a constant.
    around = _variance(wanted, design[0, :, 1:], base)
    least = max(2.0, _EDGES * float(np.sqrt(around)))
    weight, spread = base, least
    tone, residual = np.zeros((3, 4), np.float32), wanted
    # Twice: the first fit finds the damage, the second leaves it out (Cauchy weights).
    for _ in range(2):
        tone = _tone(design, wanted, weight)
        residual = wanted - np.matmul(design, tone[:, :, None])[..., 0]
        size = np.sqrt(np.square(residual).sum(axis=0))
        spread = max(1.4826 * float(np.median(size)), least)
        weight = base / (1 + np.square(size / (_CAUCHY * spread)))
    total = float(base.sum())
    left = float((np.square(residual) @ base).sum()) / total
    # A part of what lies near the mask that the reference does not reach is no agreement.
    reach = min(1.0, 0.5 + total / float(view.weight.sum()))
    score = float(np.sqrt(max(0.0, 1 - left / max(around, 4.0)))) * reach
    return _Fit(at, weight, design, tone, residual, spread, score)


def _tone(design: F32, wanted: F32, weight: F32) -> F32:
    """Weighted least squares per channel, `(3, 4)`, the slopes pulled lightly to none; a gain below zero is none."""
    weighted = np.swapaxes(design * weight[:, None], 1, 2)
    gram = np.matmul(weighted, design).astype(np.float64)
    total = float(weight.sum()) + 1e-6
    gram += total * np.diag([1e-3, 1e-6, 0.02, 0.02])
    target = np.matmul(weighted, wanted[:, :, None]).astype(np.float64)
    tone = np.linalg.solve(gram, target)[..., 0]
    mean = (wanted @ weight) / total
    return np.where(tone[:, :1] > 0, tone, np.stack([0 * mean, mean, 0 * mean, 0 * mean], axis=1)).astype(np.float32)


def _variance(values: F32, plane: F32, weight: F32) -> float:
    """The variance of all channels `(3, N)` about planes over the view: a gradient of light explains nothing."""
    weighted = plane.T * weight
    gram = (weighted @ plane).astype(np.float64) + 1e-6 * np.eye(3)
    solved = np.linalg.solve(gram, (weighted @ values.T).astype(np.float64)).astype(np.float32)
    return float((np.square(values - (plane @ solved).T) @ weight).sum() / weight.sum())


def _step(view: _View, fit: _Fit, warped: F32, affine: bool, tilt: np.ndarray) -> Homography | None:
    """One Gauss-Newton step, as a homography of the centred view coordinates; the tone is eliminated exactly.

    Args:
        tilt: The perspective so far, `(2,)`, which is expected to be small.
    """
    gram, target = _normal_equations(view, fit, warped)
    tone = gram[:, 8:, 8:] + 1e-3 * gram[:, 8:, 8:] * np.eye(4) + 1e-6 * np.eye(4)
    away = np.linalg.solve(tone, gram[:, 8:, :8])
    normal = (gram[:, :8, :8] - np.matmul(gram[:, :8, 8:], away)).sum(axis=0)
    right = (target[:, :8] - np.matmul(np.swapaxes(away, 1, 2), target[:, 8:, None])[..., 0]).sum(axis=0)
    stiffness = _CORRELATED_PX * fit.spread**2 / _TILT**2
    normal[6:, 6:] += stiffness * np.eye(2)
    right[6:] -= stiffness * tilt
    used = 6 if affine else 8
    normal, right = normal[:used, :used], right[:used]
    normal += _DAMPING * np.diag(np.diag(normal)) + (1e-6 * np.trace(normal) + 1e-9) * np.eye(used)
    moved = np.linalg.solve(normal, right)
    if not np.isfinite(moved).all():
        return None
    moved *= min(1.0, _LONGEST_STEP / max(float(np.abs(moved).max()), 1e-9))
    a, b, c, d, e, f, p, q = [*moved, 0.0, 0.0][:8]
    return np.array([[1 + a, b, c], [d, 1 + e, f], [p, q, 1.0]])


def _normal_equations(view: _View, fit: _Fit, warped: F32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per channel, of the eight motions and the four tones together: `(3, 12, 12)` and `(3, 12)`."""
    x, y = view.grid.reshape(-1, 2)[fit.at].T
    # The mean of both pictures' gradients, where a gain below zero was found no gradient at all.
    slope = (fit.tone[:, 0] * _gradient(warped) + view.gradient) * (0.5 / view.centre[0, 0])
    gx, gy = (np.where(fit.tone[:, :1] > 0, s.reshape(-1, 3)[fit.at].T, 0) for s in slope)
    radial = gx * x + gy * y
    root = np.sqrt(fit.weight)
    joint = np.empty((3, len(fit.at), 12), np.float32)
    for column, part in enumerate((gx * x, gx * y, gx, gy * x, gy * y, gy, -radial * x, -radial * y)):
        joint[..., column] = part
    joint[..., 8:] = fit.design
    joint *= root[:, None]
    turned = np.swapaxes(joint, 1, 2)
    target = np.matmul(turned, (fit.residual * root)[..., None])[..., 0]
    return np.matmul(turned, joint).astype(np.float64), target.astype(np.float64)


def _gradient(image: F32) -> F32:
    """Of all channels, per pixel: `float32 (2, h, w, 3)`, along x and y."""
    slopes = [cv2.Scharr(image, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0)]
    return np.stack(slopes).astype(np.float32) / np.float32(32)
