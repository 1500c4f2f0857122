"""The reference in the view's frame: without aliasing, and where it covers."""

from typing import Final

import cv2
import numpy as np
from PIL import Image

from refine_ops.image.registration.frames import Homography, centre_of, inverse, project, resized, scale_at, scaling
from refine_ops.records import Mask, U8Image

_OVER: Final = 2
_STRAIGHT: Final = 1e-9
_BEYOND_PX: Final = 0.01


def warp(
    reference: U8Image, valid: Mask | None, matrix: Homography, shape: tuple[int, int], mask: Mask
) -> tuple[U8Image, Mask]:
    """The reference through `matrix` on a view of `shape` = (h, w): `uint8 (h, w, 3)`, and `bool (h, w)` where it is.

    Reduced by area to twice what the view shows of it, drawn at twice the view's size and reduced by area: a larger
    reference is not aliased, a tilted one is not blurred along its other axis. One that lies upright is resampled once.
    """
    height, width = shape
    there = np.ones(reference.shape[:2], np.float32) if valid is None else valid.astype(np.float32)
    covered = cv2.warpPerspective(there, matrix, (width, height), flags=cv2.INTER_LINEAR) > 0.98
    if (box := _upright_box(matrix, shape, reference.shape)) is not None:
        drawn = Image.fromarray(reference).resize((width, height), Image.Resampling.LANCZOS, box=box)
        return np.asarray(drawn), covered
    at = project(inverse(matrix), centre_of(mask)[0][None])[0]
    small, reduced = resized(reference, min(1.0, _OVER * scale_at(matrix, at)))
    full = scaling(_OVER, _OVER) @ matrix @ inverse(reduced)
    size = (_OVER * width, _OVER * height)
    large = cv2.warpPerspective(small, full, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA), np.uint8), covered


def _upright_box(
    matrix: Homography, shape: tuple[int, int], reference: tuple[int, ...]
) -> tuple[float, float, float, float] | None:
    """What the view shows of an upright reference, in its pixels from corner to corner; None where it is not upright or
    the view reaches beyond it."""
    matrix = matrix / matrix[2, 2]
    if np.abs(matrix[[0, 1, 2, 2], [1, 0, 0, 1]]).max() > _STRAIGHT or min(matrix[0, 0], matrix[1, 1]) <= 0:
        return None
    (x0, y0), (x1, y1) = project(inverse(matrix), np.array([[-0.5, -0.5], [shape[1] - 0.5, shape[0] - 0.5]])) + 0.5
    far = (x0, y0, reference[1] - x1, reference[0] - y1)
    if min(far) < -_BEYOND_PX:
        return None
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(reference[1])), min(y1, float(reference[0]))
