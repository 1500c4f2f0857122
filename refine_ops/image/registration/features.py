"""Coarse poses from local features: RootSIFT (Arandjelovic and Zisserman 2012), several consistent sets of matches."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.formats.native import F32
from refine_ops.image.registration.frames import Homography, resized
from refine_ops.records import Mask, U8Image

_SIDE_PX: Final = 512
_KEYPOINTS: Final = 1500
_CONTRAST: Final = 0.01
_RATIO: Final = 0.85
_REACH_PX: Final = 6.0
"""A match agrees with a similarity within this, at 512 px."""
_GUIDED_PX: Final = 14.0
_MAGSAC_PX: Final = 3.0
_MIN_MATCHES: Final = 5
_HOMOGRAPHY_MATCHES: Final = 14
_SETS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints:
    """A picture's local features: positions `(N, 2)` in its own pixels, RootSIFT descriptors `float32 (N, 128)`."""

    points: F32
    descriptors: F32


@dataclass(frozen=True, slots=True, eq=False)
class CoarsePose:
    """Reference -> view, how it was found, and how many matches agree."""

    matrix: Homography
    method: str
    inliers: int = 0


def keypoints(image: U8Image, valid: Mask | None = None) -> Keypoints:
    """SIFT on the picture brought to 512 px, its local contrast evened out (CLAHE); only where `valid`."""
    factor = _SIDE_PX / max(image.shape[:2])
    seen, scale = resized(image, factor)
    grey = cv2.createCLAHE(2.0, (8, 8)).apply(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY))
    within = None
    if valid is not None:
        within = cv2.resize(valid.astype(np.uint8) * 255, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    found, descriptors = cv2.SIFT.create(_KEYPOINTS, contrastThreshold=_CONTRAST).detectAndCompute(grey, within)
    if descriptors is None:
        return Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    at = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    own = (at - scale[:2, 2]) / np.diag(scale)[:2]
    root = np.sqrt(descriptors / (descriptors.sum(axis=1, keepdims=True) + 1e-7))
    return Keypoints(own.astype(np.float32), root.astype(np.float32))


def poses(reference: Keypoints, view: Keypoints, view_side_px: int) -> list[CoarsePose]:
    """Coarse poses by falling support: similarities by RANSAC, each also as an affine map and, with enough matches, as
    a homography by MAGSAC (Barath et al. 2020); what one set explains is taken out before the next is sought."""
    start, end = _matches(reference, view)
    unit = view_side_px / _SIDE_PX
    found: list[CoarsePose] = []
    for _ in range(_SETS):
        if len(start) < _MIN_MATCHES:
            break
        similar, inlying = cv2.estimateAffinePartial2D(
            start, end, method=cv2.RANSAC, ransacReprojThreshold=_REACH_PX * unit, maxIters=2000, confidence=0.995
        )
        keep = np.zeros(len(start), np.bool_) if inlying is None else inlying[:, 0] > 0
        count = _distinct(end[keep], unit)
        if similar is None or count < _MIN_MATCHES:
            break
        found.append(CoarsePose(_square(similar), "features", count))
        near = _within(similar, start, end, _GUIDED_PX * unit)
        found += _richer(start[near], end[near], unit)
        start, end = start[~near], end[~near]
    return found


def _matches(reference: Keypoints, view: Keypoints) -> tuple[F32, F32]:
    if min(len(reference.points), len(view.points)) < _MIN_MATCHES:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    # From the view: most of its keypoints are background, and one of the reference may be there twice.
    pairs = cv2.BFMatcher().knnMatch(view.descriptors, reference.descriptors, k=2)
    good = [two[0] for two in pairs if len(two) == 2 and two[0].distance < _RATIO * two[1].distance]
    start = reference.points[[m.trainIdx for m in good]].reshape(-1, 2)
    return start, view.points[[m.queryIdx for m in good]].reshape(-1, 2)


def _richer(start: F32, end: F32, unit: float) -> list[CoarsePose]:
    more: list[CoarsePose] = []
    if len(start) >= _MIN_MATCHES + 2:
        affine, inlying = cv2.estimateAffine2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=_REACH_PX * unit)
        if affine is not None:
            more.append(CoarsePose(_square(affine), "features", _distinct(end[inlying[:, 0] > 0], unit)))
    if len(start) >= _HOMOGRAPHY_MATCHES:
        matrix, inlying = cv2.findHomography(start, end, cv2.USAC_MAGSAC, _MAGSAC_PX * unit)
        if matrix is not None:
            more.append(CoarsePose(np.asarray(matrix), "features", _distinct(end[inlying[:, 0] > 0], unit)))
    return more


def _distinct(points: F32, unit: float) -> int:
    """Matches that lie at least 4 px apart: SIFT gives one corner in several orientations and scales."""
    return len(np.unique(np.rint(points / (4 * unit)), axis=0))


def _within(affine: npt.NDArray[np.float64], start: F32, end: F32, reach: float) -> npt.NDArray[np.bool_]:
    moved = start @ affine[:, :2].T + affine[:, 2]
    return np.asarray(np.linalg.norm(moved - end, axis=1) < reach)


def _square(affine: npt.NDArray[np.float64]) -> Homography:
    return np.vstack([affine, [0.0, 0.0, 1.0]])
