"""Stage 3, scribble: M, drawn as a user would mark the object (section 4.1 iii)."""

import cv2
import numpy as np

from refine_ops.data.config import MaskKind, MaskSettings
from refine_ops.data.stages.masks import Limits, dilated, scribble_mask
from refine_ops.errors import ItemError
from refine_ops.records import Mask

_BOX_TRIES = 400


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
