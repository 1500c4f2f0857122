"""The reference in the view's frame: without aliasing, and where it covers."""

import cv2
import numpy as np

from refine_ops.image.registration.frames import Homography, centre_of, inverse, project, resized, scale_at, scaling
from refine_ops.records import Mask, U8Image

_OVER = 2


def warp(
    reference: U8Image, valid: Mask | None, matrix: Homography, shape: tuple[int, int], mask: Mask
) -> tuple[U8Image, Mask]:
    """The reference through `matrix` on a view of `shape` = (h, w): `uint8 (h, w, 3)`, and `bool (h, w)` where it is.

    Reduced by area to twice what the view shows of it, drawn at twice the view's size and reduced by area: a larger
    reference is not aliased, a tilted one is not blurred along its other axis.
    """
    height, width = shape
    at = project(inverse(matrix), centre_of(mask)[0][None])[0]
    small, reduced = resized(reference, min(1.0, _OVER * scale_at(matrix, at)))
    full = scaling(_OVER, _OVER) @ matrix @ inverse(reduced)
    size = (_OVER * width, _OVER * height)
    drawn = cv2.warpPerspective(small, full, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    there = np.ones(reference.shape[:2], np.float32) if valid is None else valid.astype(np.float32)
    covered = cv2.warpPerspective(there, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8), covered > 0.98
