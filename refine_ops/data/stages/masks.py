"""Stage 3, masks: M, as a user would mark a known object (Sec. 4.1 iii): strokes, a box, or the whole shape.

All masks are `bool (h, w)` and lie inside the object dilated by `reach_px(object)`, the M of Eq. 12.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.data.config import MaskKind, MaskSettings
from refine_ops.errors import ItemError
from refine_ops.records import Mask

ATTEMPTS: Final = 8
_BOX_TRIES: Final = 400


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scribble must be like: its share of the dilated object's area, and its number of separate parts."""

    least_area: float = 0.15
    most_area: float = 0.95
    most_parts: int = 3


def draw_region(shape: Mask, settings: MaskSettings, rng: np.random.Generator) -> tuple[MaskKind, Mask]:
    """A kind by weight and its mask, `bool (H, W)`, inside the dilated object.

    Raises:
        ItemError: `object.empty`, `scribble.limits`, `box.limits`: what was tried and what the limits are.
    """
    kinds: tuple[MaskKind, ...] = ("scribble", "box", "object")
    weights = np.array([settings.scribble, settings.box, settings.object])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    if kind == "scribble":
        limits = Limits(settings.least_area, settings.most_area, settings.most_parts)
        return kind, scribble_mask(shape, rng, limits)
    return kind, shape.copy() if kind == "object" else inner_box(dilated(shape), settings, rng)


def inner_box(allowed: Mask, settings: MaskSettings, rng: np.random.Generator) -> Mask:
    """A random rectangle that lies wholly in `allowed`: where the object is no box, neither is its tight box.

    Raises:
        ItemError: `box.limits` when none of the tries covers between the least and the most area.
    """
    rows, columns = np.nonzero(allowed.any(1))[0], np.nonzero(allowed.any(0))[0]
    if not rows.size:
        raise ItemError("object.empty", "a box was wanted in an object of which no pixel is visible")
    xs = np.sort(rng.integers(columns[0], columns[-1] + 2, (_BOX_TRIES, 2)), axis=1)
    ys = np.sort(rng.integers(rows[0], rows[-1] + 2, (_BOX_TRIES, 2)), axis=1)
    integral = cv2.integral(allowed.astype(np.uint8))
    (y0, y1), (x0, x1) = ys.T, xs.T
    inside = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    areas = (x1 - x0) * (y1 - y0)
    shares = areas / integral[-1, -1]
    fitting = (inside == areas) & (shares >= settings.least_area) & (shares <= settings.most_area)
    if not fitting.any():
        best = float(shares[inside == areas].max(initial=0))
        raise ItemError(
            "box.limits",
            f"expected a rectangle over {settings.least_area} to {settings.most_area} of the object's area; the "
            f"largest of {_BOX_TRIES} inside it covers {best:.2f}: widen the limits or drop the object",
        )
    i = int(np.flatnonzero(fitting)[0])
    mask = np.zeros(allowed.shape, bool)
    mask[y0[i] : y1[i], x0[i] : x1[i]] = True
    return mask


def diagonal_px(shape: Mask) -> float:
    """Diagonal of the tight box of `shape`; 0 where nothing is marked."""
    rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
    if rows.size == 0:
        return 0.0
    return float(np.hypot(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))


def reach_px(shape: Mask) -> int:
    """How far a user's mask may go past the object: 4 % of its diagonal, at least 1 px."""
    return max(1, round(0.04 * diagonal_px(shape)))


def dilated(shape: Mask) -> Mask:
    """The object grown by `reach_px` in all directions."""
    side = 2 * reach_px(shape) + 1
    grown = cv2.dilate(shape.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray(grown, bool)


def box_mask(shape: Mask) -> Mask:
    """The object's tight box, inside the dilated object only where the object is box-like: the box is the exception.

    A user's box covers background between the object's parts, so this is the one mask not confined to Eq. 12's M.
    """
    rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
    if rows.size == 0:
        raise ItemError("object.empty", "a box was wanted around an object of which no pixel is visible")
    mask = np.zeros(shape.shape, bool)
    mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return mask


def scribble_mask(shape: Mask, rng: np.random.Generator, limits: Limits = Limits()) -> Mask:
    """Random strokes over the object, their width and length in proportion to its diagonal.

    Raises:
        ItemError: `object.empty`, or `scribble.limits` when no try of `ATTEMPTS` kept the limits.
    """
    allowed = dilated(shape)
    if not shape.any():
        raise ItemError("object.empty", "a scribble was wanted on an object of which no pixel is visible")
    tried = []
    for _ in range(ATTEMPTS):
        mask = _strokes(shape, rng) & allowed
        share = mask.sum() / allowed.sum()
        parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
        if limits.least_area <= share <= limits.most_area and 1 <= parts <= limits.most_parts:
            return mask
        tried.append(f"{share:.2f} in {parts}")
    raise ItemError(
        "scribble.limits",
        f"expected {limits.least_area} to {limits.most_area} of the object's area in at most {limits.most_parts} "
        f"parts; {ATTEMPTS} tries gave {', '.join(tried)}: widen the limits or drop the object",
    )


def _strokes(shape: Mask, rng: np.random.Generator) -> Mask:
    """One to three smooth strokes through random points of the object."""
    rows, columns = np.nonzero(shape)
    diagonal = diagonal_px(shape)
    canvas = np.zeros(shape.shape, np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        picks = rng.integers(rows.size, size=int(rng.integers(3, 6)))
        corners = np.stack([columns[picks], rows[picks]], 1).astype(np.float64)
        path = _smooth(corners)
        width = max(2, round(diagonal * rng.uniform(0.08, 0.25)))
        cv2.polylines(canvas, [np.rint(path).astype(np.int32)], False, 255, width, cv2.LINE_8)
    return canvas.astype(bool)


def _smooth(
    corners: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Corner cutting (Chaikin), twice: `(n, 2)` points to a smooth path."""
    for _ in range(2):
        near = 0.75 * corners[:-1] + 0.25 * corners[1:]
        far = 0.25 * corners[:-1] + 0.75 * corners[1:]
        corners = np.concatenate([corners[:1], np.stack([near, far], 1).reshape(-1, 2), corners[-1:]])
    return corners
