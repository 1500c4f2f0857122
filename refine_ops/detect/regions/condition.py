"""Whether what is there is damaged: how soft its edges are, how noisy its flat parts, how coarsely it was coded.

Everything is measured on the source's own pixels. The gradient of a step of width s, blurred once more by 1 px, falls
by sqrt(1 + 1/s^2) (Zhuo and Sim 2011), whatever its contrast; colours that are softer than brightness, and steps on a
grid of 8 px, are what coding leaves; a print is flat beside its edges, so what its quietest windows hold is noise.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.judge.evidence.detail import Plane
from refine_ops.records import Box, Mask, U8Image

_REACH_PX: Final = 8
_STRONGEST: Final = 0.9
_LEAST_PIXELS: Final = 40
_SOFTEST_PX: Final = 6.0
_QUIET: Final = 0.2
_WINDOW_PX: Final = 5
_BLOCK_PX: Final = 8
_COLOUR: Final = 2.0
"""Least gradient of a colour difference, in levels per px, for its width to be told."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What was measured of one place; None where it cannot be told.

    `edge_px` is the median width (sigma, px) of the strongest tenth of its edges, `wide_px` their third quartile,
    `colour_px` the same median of the colour differences; `noise` the standard deviation in its quietest fifth of
    windows, in levels of 255; `blocks` how much higher steps on a grid of 8 px are than beside it; `legibility` how
    surely it was read, `softness` what the detector saw itself, `height_px` its shorter side.
    """

    edge_px: float | None
    wide_px: float | None
    colour_px: float | None
    noise: float | None
    blocks: float | None
    legibility: float | None
    softness: float | None
    height_px: float


def measure_condition(
    image: U8Image, quad: npt.NDArray[Any], legibility: float | None = None, softness: float | None = None
) -> Condition:
    """Of the place with these corners `(4, 2)` in `uint8 (H, W, 3)`."""
    x0, y0, x1, y1 = _cut(image, quad)
    sides = np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1)
    height_px = float(min(sides))
    near = np.ascontiguousarray(image[y0:y1, x0:x1])
    drawn = np.zeros(near.shape[:2], np.uint8)
    cv2.fillConvexPoly(drawn, np.rint(quad - (x0, y0)).astype(np.int32), 1)
    inside = drawn > 0
    if np.count_nonzero(inside) < _LEAST_PIXELS:
        return Condition(None, None, None, None, None, legibility, softness, height_px)
    light, *colours = (np.asarray(p, np.float32) for p in cv2.split(cv2.cvtColor(near, cv2.COLOR_RGB2YCrCb)))
    edge, wide = _widths(light, inside, 1.0)
    softest = [width for plane in colours if (width := _widths(plane, inside, _COLOUR)[0]) is not None]
    colour = max(softest, default=None)
    return Condition(edge, wide, colour, _noise(light, inside), _blocks(light, inside), legibility, softness, height_px)


def _cut(image: U8Image, quad: npt.NDArray[Any]) -> Box:
    height, width = image.shape[:2]
    x0, y0 = (int(max(0, v)) for v in np.floor(quad.min(axis=0) - _REACH_PX))
    x1, y1 = (int(min(most, v)) for v, most in zip(np.ceil(quad.max(axis=0) + _REACH_PX), (width, height), strict=True))
    return x0, y0, x1, y1


def _widths(plane: Plane, part: Mask, least: float) -> tuple[float | None, float | None]:
    """Median and third quartile of the widths of the strongest edges; None where there are none to speak of."""
    sharp, soft = _slopes(plane), _slopes(np.asarray(cv2.GaussianBlur(plane, (0, 0), 1.0), np.float32))
    limit = float(np.quantile(sharp[part], _STRONGEST))
    if limit < least:
        return None, None
    strong = part & (sharp >= limit)
    ratio = sharp[strong] / np.maximum(soft[strong], 1e-3)
    widths = np.minimum(1 / np.sqrt(np.maximum(ratio**2 - 1, 1e-3)), _SOFTEST_PX)
    return float(np.median(widths)), float(np.quantile(widths, 0.75))


def _slopes(plane: Plane) -> Plane:
    x, y = (cv2.Sobel(plane, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(x, y), np.float32)


def _noise(light: Plane, part: Mask) -> float:
    box = (_WINDOW_PX, _WINDOW_PX)
    variance = cv2.blur(light * light, box) - cv2.blur(light, box) ** 2
    return float(np.sqrt(max(float(np.quantile(variance[part], _QUIET)), 0.0)))


def _blocks(light: Plane, part: Mask) -> float | None:
    """The steps' highest phase over their median one, along the axis where it stands out less."""
    x, y, width, height = cv2.boundingRect(part.view(np.uint8))
    found = []
    for plane in (light[y : y + height], light[:, x : x + width].T):
        if plane.shape[0] < 3 * _BLOCK_PX:
            continue
        steps = np.minimum(np.abs(np.diff(plane, axis=0)), 20).mean(axis=1)
        phases = np.array([steps[start::_BLOCK_PX].mean() for start in range(_BLOCK_PX)])
        found.append(float(phases.max() / (np.median(phases) + 0.2)))
    return min(found, default=None)
