"""A registered reference drawn again in another view of the same region: a tile of it, nearer.

What was found on the whole region decides; on the tile the pose is followed to the precision that the tile shows, and
sharpness is matched to what surrounds the tile's open part, which may be what an earlier tile has made.
"""

from typing import Final

import numpy as np

from refine_ops.image.registration.agree import ComparedViews
from refine_ops.image.registration.descend import Pictures, descend, score_at
from refine_ops.image.registration.frames import Homography, inverse, plausible, project, shift
from refine_ops.image.registration.harmonise import match_sharpness
from refine_ops.image.registration.register import Registered
from refine_ops.image.registration.warp import warp
from refine_ops.records import Mask, U8Image

_SIDE_PX: Final = 128
_ROUNDS: Final = 5
_BETTER: Final = 0.01
"""Of correlation, by which a followed pose must win."""
_FARTHEST: Final = 0.04
"""Of the view's side: a pose found on the region is not off by more."""
_SPARE_PX: Final = 4


def redrawn(
    found: Registered, reference: U8Image, view: U8Image, mask: Mask, to_view: Homography
) -> tuple[U8Image, Mask]:
    """The reference on `view`, `uint8 (h, w, 3)`, its tone and sharpness matched, and where it reaches, `bool (h, w)`;
    the view itself where it does not.

    Args:
        to_view: From the view that it was found on.
        mask: What of M is still to be made in `view`.
    """
    assert found.transform is not None
    assert found.tone is not None
    matrix = to_view @ found.transform
    part, matrix = _cut(reference, matrix, view.shape[:2])
    if not part.size:
        return view, np.zeros(view.shape[:2], np.bool_)
    matrix = _followed(part, view, mask, matrix)
    warped, covered = warp(part, None, matrix, view.shape[:2], mask)
    if not covered.any():
        return view, covered
    warped = match_sharpness(warped, ComparedViews(view, warped, covered, mask).around(), 1.0)
    return found.tone.given_to(warped, view, covered, inverse(to_view)), covered


def _cut(reference: U8Image, matrix: Homography, shape: tuple[int, int]) -> tuple[U8Image, Homography]:
    """The part of the reference that the view shows, as a view of it, and its own pose."""
    height, width = shape
    corners = np.array([[-1, -1], [width, -1], [width, height], [-1, height]], np.float64)
    back = inverse(matrix)
    if np.ptp(np.sign(np.append(corners, np.ones((4, 1)), axis=1) @ back[2])) > 0:
        return reference, matrix  # a part of the view lies behind the reference's horizon
    at = project(back, corners)
    low = np.maximum(np.floor(at.min(axis=0)) - _SPARE_PX, 0).astype(int)
    high = np.minimum(np.ceil(at.max(axis=0)) + _SPARE_PX + 1, reference.shape[1::-1]).astype(int)
    return reference[low[1] : high[1], low[0] : high[0]], matrix @ shift(float(low[0]), float(low[1]))


def _followed(reference: U8Image, view: U8Image, mask: Mask, matrix: Homography) -> Homography:
    """The pose refined on this view, where that is clearly better and not elsewhere."""
    pictures = Pictures(view, mask, reference)
    there = descend(pictures, matrix, (_SIDE_PX,), _ROUNDS, affine_first=True).matrix
    if not plausible(there, reference.shape, mask):
        return matrix
    height, width = view.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    moved = project(there @ inverse(matrix), corners) - corners
    if np.abs(moved).max() > _FARTHEST * max(width, height):
        return matrix
    before, after = (score_at(pictures, m, _SIDE_PX, True) for m in (matrix, there))
    return there if after > before + _BETTER else matrix
