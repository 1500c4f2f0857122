"""Whether what is there is damaged: how soft its edges are, how surely it is read, what lies where nothing should.

Everything is measured on the source's own pixels. Edges first: the gradient of a step of width s, blurred once more by
1 px, falls by sqrt(1 + 1/s^2) (Zhuo and Sim 2011), whatever its contrast. A print is flat beside its edges, so what
is there of grain, ghosts and coding is damage, unless the surroundings have as much of it.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.judge.evidence.detail import Plane
from refine_ops.records import Box, Mask, U8Image

_AROUND: Final = 0.5
"""The surroundings: this share of the shorter side, 8 px at least and 48 at most."""
_STRONGEST: Final = 0.9
_LEAST_PIXELS: Final = 40
_SOFTEST_PX: Final = 6.0
_FLAT_PX: Final = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """What was measured of one place.

    `edge_px` is the median width (sigma, px) of the strongest tenth of its edges, `wide_px` what three of four stay
    below, `edge_around_px` as `edge_px` of its surroundings; `grain` the contrast of what lies finer than 2 px beside
    the edges, in shares of the place's own contrast; `grain_around` the same of the surroundings, `legibility` how
    surely it was read, `softness` what the detector saw itself. None where it cannot be told.
    """

    edge_px: float | None
    wide_px: float | None
    edge_around_px: float | None
    grain: float | None
    grain_around: float | None
    legibility: float | None
    softness: float | None
    height_px: float


def measure_condition(
    grey: Plane, quad: np.ndarray, legibility: float | None = None, softness: float | None = None
) -> Condition:
    """Of the place with these corners `(4, 2)` in a picture's brightness `float32 (H, W)`, in levels of 255."""
    x0, y0, x1, y1 = _cut(grey, quad)
    near = np.ascontiguousarray(grey[y0:y1, x0:x1])
    inside = np.zeros(near.shape, np.uint8)
    cv2.fillConvexPoly(inside, np.rint(quad - (x0, y0)).astype(np.int32), 1)
    inner = inside > 0
    outer = ~(cv2.dilate(inside, np.ones((5, 5), np.uint8)) > 0)
    slopes = _slopes(near)
    edge, wide = _widths(slopes, inner)
    around, _ = _widths(slopes, outer)
    contrast = float(near[inner].std()) if inner.any() else 0.0
    sides = np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1)
    return Condition(
        edge,
        wide,
        around,
        _grain(near, slopes, inner, contrast),
        _grain(near, slopes, outer, contrast),
        legibility,
        softness,
        float(min(sides)),
    )


def _cut(grey: Plane, quad: np.ndarray) -> Box:
    height, width = grey.shape
    low, high = quad.min(axis=0), quad.max(axis=0)
    reach = float(np.clip(_AROUND * min(high - low), 8, 48))
    x0, y0 = (int(max(0, v)) for v in np.floor(low - reach))
    x1, y1 = (int(min(most, v)) for v, most in zip(np.ceil(high + reach), (width, height), strict=True))
    return x0, y0, x1, y1


def _slopes(grey: Plane) -> tuple[Plane, Plane]:
    """Length of the gradient, of the picture and of the picture blurred by 1 px."""

    def length(plane: Plane) -> Plane:
        x, y = (cv2.Sobel(plane, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
        return np.asarray(cv2.magnitude(x, y), np.float32)

    return length(grey), length(np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), np.float32))


def _widths(slopes: tuple[Plane, Plane], part: Mask) -> tuple[float | None, float | None]:
    """Median and third quartile of the widths of the strongest edges; None where there are none to speak of."""
    values = slopes[0][part]
    if values.size < _LEAST_PIXELS:
        return None, None
    least = float(np.quantile(values, _STRONGEST))
    if least < 1.0:
        return None, None
    strong = part & (slopes[0] >= least)
    ratio = slopes[0][strong] / np.maximum(slopes[1][strong], 1e-3)
    widths = np.minimum(1 / np.sqrt(np.maximum(ratio**2 - 1, 1e-3)), _SOFTEST_PX)
    return float(np.median(widths)), float(np.quantile(widths, 0.75))


def _grain(grey: Plane, slopes: tuple[Plane, Plane], part: Mask, contrast: float) -> float | None:
    """Contrast finer than 2 px away from edges: noise, ringing, ghosts."""
    values = slopes[1][part]
    if values.size < _LEAST_PIXELS or contrast < 2:
        return None
    edges = (slopes[1] > 0.25 * float(np.quantile(values, 0.98))).astype(np.uint8)
    flat = part & ~(cv2.dilate(edges, np.ones((_FLAT_PX, _FLAT_PX), np.uint8)) > 0)
    if np.count_nonzero(flat) < _LEAST_PIXELS:
        return None
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 2.0)
    return float(fine[flat].std()) / contrast


def grey_plane(image: U8Image) -> Plane:
    """Brightness of `uint8 (H, W, 3)`, in levels of 255."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
