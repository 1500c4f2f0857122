"""Where in a whole picture a reference may appear: coarse poses, right and wrong, for registration to decide on.

Two ways, as they fail differently: local features that vote for a scale, a turn and a place (Lowe 2004, section 7), for
what has corners enough; and the reference as a small template at every size and turn, for flat marks and blurred ones.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.detect.finding.found import Quad
from refine_ops.image.formats.native import F32
from refine_ops.image.registration.frames import Homography, project, resized, scaling, shift
from refine_ops.records import Mask, U8Image

_SIFT: Final = 6000
_REFERENCE_SIFT: Final = 1200
_CONTRAST: Final = 0.01
_RATIO: Final = 0.88
_LEAST_VOTES: Final = 4
_VOTING: Final = 6
"""Groups of votes looked at per reference."""
_REACH: Final = 0.06
"""A match agrees within this share of the reference's longer side, as it appears."""
_TEMPLATE_PX: Final = 24
_BRIGHTNESS: Final = 1.3
"""Colours must show so much more than brightness to be searched in its place: cameras and codecs keep less of them."""
_STEP: Final = 1.25
_TURNS: Final = tuple(range(-30, 31, 10))
_LEAST_ALIKE: Final = 0.5
_PEAKS: Final = 4
"""Of one size and turn."""
_TEMPLATES_KEPT: Final = 10
_SAME: Final = 0.35
"""Of the smaller side of two coarse poses: nearer than this they are one."""


@dataclass(frozen=True, slots=True, eq=False)
class Sought:
    """A reference as it is sought: `valid` `bool (H, W)` is where it shows anything, None: everywhere."""

    name: str
    uri: str
    pixels: U8Image
    valid: Mask | None
    points: "Points"

    @property
    def corners(self) -> Quad:
        """Of its picture, clockwise from top left."""
        height, width = self.pixels.shape[:2]
        return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Local features: `(N, 4)` x, y, size and angle (radians), and RootSIFT `float32 (N, 128)`."""

    at: F32
    descriptors: F32


def points_of(image: U8Image, valid: Mask | None = None, most: int = _REFERENCE_SIFT) -> Points:
    """SIFT, local contrast evened out (CLAHE), only where `valid`; the strongest `most`."""
    grey = cv2.createCLAHE(2.0, (8, 8)).apply(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    within = None if valid is None else valid.astype(np.uint8) * 255
    found, descriptors = cv2.SIFT.create(most, contrastThreshold=_CONTRAST).detectAndCompute(grey, within)
    if descriptors is None:
        return Points(np.empty((0, 4), np.float32), np.empty((0, 128), np.float32))
    at = np.array([(*p.pt, p.size, np.deg2rad(p.angle)) for p in found], np.float32).reshape(-1, 4)
    root = np.sqrt(descriptors / (descriptors.sum(axis=1, keepdims=True) + 1e-7))
    return Points(at, root.astype(np.float32))


def picture_points(image: U8Image) -> Points:
    """Of a whole picture."""
    return points_of(image, most=_SIFT)


def by_features(sought: Sought, picture: Points) -> list[Homography]:
    """Similarities reference -> picture that several features agree on, best supported first."""
    start, end = _matches(sought.points, picture)
    if len(start) < _LEAST_VOTES:
        return []
    factor = np.asarray(end[:, 2] / np.maximum(start[:, 2], 1e-3), np.float32)
    turn = np.asarray(end[:, 3] - start[:, 3], np.float32)
    middle = sought.corners.mean(axis=0)
    c, s = factor * np.cos(turn), factor * np.sin(turn)
    off = middle - start[:, :2]
    centre = end[:, :2] + np.stack([c * off[:, 0] - s * off[:, 1], s * off[:, 0] + c * off[:, 1]], axis=1)
    longer = float(max(sought.pixels.shape[:2]))
    found: list[tuple[int, Homography]] = []
    free = np.ones(len(start), np.bool_)
    for _ in range(_VOTING):
        group = _largest_group(centre, factor, turn, longer, free)
        if len(group) < _LEAST_VOTES:
            break
        free[group] = False
        reach = max(2.0, _REACH * longer * float(np.median(factor[group])))
        cv2.setRNGSeed(0)
        matrix, inlying = cv2.estimateAffinePartial2D(
            start[group, :2], end[group, :2], method=cv2.RANSAC, ransacReprojThreshold=reach, maxIters=500
        )
        if matrix is not None and (count := int(inlying.sum())) >= _LEAST_VOTES:
            found.append((count, np.vstack([matrix, [0.0, 0.0, 1.0]])))
    return [matrix for _, matrix in sorted(found, key=lambda one: -one[0])]


def _matches(reference: Points, picture: Points) -> tuple[F32, F32]:
    if min(len(reference.at), len(picture.at)) < _LEAST_VOTES:
        return np.empty((0, 4), np.float32), np.empty((0, 4), np.float32)
    # From the picture: one feature of the reference may be there several times.
    pairs = cv2.BFMatcher().knnMatch(picture.descriptors, reference.descriptors, k=2)
    good = [two[0] for two in pairs if len(two) == 2 and two[0].distance < _RATIO * two[1].distance]
    start = reference.at[[m.trainIdx for m in good]].reshape(-1, 4)
    return start, picture.at[[m.queryIdx for m in good]].reshape(-1, 4)


def _largest_group(
    centre: npt.NDArray[Any], factor: F32, turn: F32, longer: float, free: Mask
) -> npt.NDArray[np.int64]:
    """Indices of the free votes around the one that most agree with: half an octave, 25 degrees, a quarter side."""
    left = np.flatnonzero(free)
    best = np.empty(0, np.int64)
    scale = np.log2(np.maximum(factor, 1e-3))
    for one in left:
        near = np.abs(scale[left] - scale[one]) < 0.5
        near &= np.abs((turn[left] - turn[one] + np.pi) % (2 * np.pi) - np.pi) < np.deg2rad(25)
        near &= np.linalg.norm(centre[left] - centre[one], axis=1) < 0.25 * longer * factor[one]
        if np.count_nonzero(near) > len(best):
            best = left[near]
    return best


def by_template(sought: Sought, picture: U8Image, smallest_px: int) -> list[Homography]:
    """Similarities reference -> picture where the small reference looks alike, best first."""
    model, valid, channel = _small(sought)
    grey = _planes(picture)[channel]
    longer = max(sought.pixels.shape[:2])
    found: list[tuple[float, Homography]] = []
    side = float(smallest_px)
    while side <= 1.1 * min(grey.shape):
        # The picture at the scale where the reference has the template's size.
        seen, scale = resized(grey, min(1.0, _TEMPLATE_PX / side))
        factor = side * float(scale[0, 0]) / longer
        for degrees in _TURNS:
            for alike, matrix in _peaks(seen, model, valid, factor, np.deg2rad(degrees), sought):
                found.append((alike, np.linalg.inv(scale) @ matrix))
        side *= _STEP
    found.sort(key=lambda one: -one[0])
    return apart([matrix for _, matrix in found], sought)[:_TEMPLATES_KEPT]


def _small(sought: Sought) -> tuple[U8Image, Mask, int]:
    """The reference in the one plane where it shows most, where it is valid, and which plane that is."""
    height, width = sought.pixels.shape[:2]
    valid = np.ones((height, width), np.bool_) if sought.valid is None else sought.valid
    planes = _planes(sought.pixels)
    spread = [float(plane[valid].std()) for plane in planes]
    channel = int(np.argmax(np.array(spread) * (_BRIGHTNESS, 1.0, 1.0)))
    return planes[channel], valid, channel


def _planes(image: U8Image) -> list[U8Image]:
    """Brightness and two colour differences, `uint8 (H, W)` each."""
    r, g, b = (image[..., i].astype(np.int16) for i in range(3))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return [grey, (128 + (r - g) // 2).astype(np.uint8), (128 + (r + g - 2 * b) // 4).astype(np.uint8)]


def _peaks(
    seen: U8Image, model: U8Image, valid: Mask, factor: float, turn: float, sought: Sought
) -> list[tuple[float, Homography]]:
    """Where the reference at this size and turn looks most alike."""
    c, s = factor * np.cos(turn), factor * np.sin(turn)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    there = project(turned, sought.corners)
    low, high = np.floor(there.min(axis=0)), np.ceil(there.max(axis=0))
    size = (high - low).astype(int) + 1
    if size[0] >= seen.shape[1] or size[1] >= seen.shape[0] or min(size) < 6:
        return []
    matrix = shift(-low[0], -low[1]) @ turned
    soft = cv2.GaussianBlur(model, (0, 0), max(0.3, 0.5 / factor)) if factor < 1 else model
    size_xy = (int(size[0]), int(size[1]))
    template = cv2.warpPerspective(soft, matrix, size_xy, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(valid.astype(np.uint8), matrix, size_xy, flags=cv2.INTER_NEAREST)
    shown = template[inside > 0]
    if shown.size < 40 or float(shown.std()) < 5:
        return []
    # What is outside of the reference is its mean: it neither agrees nor disagrees.
    filled = np.where(inside > 0, template, np.uint8(round(float(shown.mean()))))
    alike = cv2.matchTemplate(seen, filled, cv2.TM_CCOEFF_NORMED)
    alike = np.nan_to_num(alike, nan=-1.0, posinf=-1.0, neginf=-1.0)
    peaks = []
    reach = max(3, int(min(size) // 2)) | 1
    for _ in range(_PEAKS):
        _, best, _, (x, y) = cv2.minMaxLoc(alike)
        if best < _LEAST_ALIKE:
            break
        peaks.append((float(best), shift(x, y) @ matrix))
        alike[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = -1
    return peaks


def apart(matrices: list[Homography], sought: Sought) -> list[Homography]:
    """In their order, without those that say about the same as one before."""
    kept: list[tuple[Homography, np.ndarray, float]] = []
    for matrix in matrices:
        quad = project(matrix, sought.corners)
        side = float(np.ptp(quad, axis=0).max())
        if all(np.abs(quad - other).mean() > _SAME * min(side, size) for _, other, size in kept):
            kept.append((matrix, quad, side))
    return [matrix for matrix, _, _ in kept]


def brought_to(image: U8Image, most_px: int) -> tuple[U8Image, Homography]:
    """The picture at this longer side at most, and the map of its pixels."""
    factor = min(1.0, most_px / max(image.shape[:2]))
    return (image, scaling(1, 1)) if factor == 1 else resized(image, factor)
