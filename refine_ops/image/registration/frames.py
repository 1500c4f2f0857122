"""Homographies between pictures, `float64 (3, 3)`, in OpenCV's pixel coordinates (centres at whole numbers)."""

from typing import Any, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.formats.native import F32
from refine_ops.records import Mask, U8Image

F64 = npt.NDArray[np.float64]
Homography = F64
Pixels = TypeVar("Pixels", F32, U8Image)

_MIN_SCALE: Final = 0.02
_MAX_SCALE: Final = 20.0
_MAX_STRETCH: Final = 4.0
_MAX_TILT: Final = 0.6
"""How far the homography's denominator may move from its value in the middle, over the part that is shown."""


def scaling(fx: float, fy: float) -> Homography:
    """Where a pixel goes when a picture is resized: centres lie half a pixel off the corner."""
    return np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]], np.float64)


def shift(dx: float, dy: float) -> Homography:
    """A translation."""
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], np.float64)


def resized(image: Pixels, factor: float) -> tuple[Pixels, Homography]:
    """The picture at about `factor` of its size, and the map of its pixels; by area where it shrinks."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return image, np.eye(3)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    small: Pixels = cv2.resize(image, size, interpolation=method)
    return small, scaling(size[0] / width, size[1] / height)


def inverse(matrix: Homography) -> Homography:
    """The way back."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def project(matrix: Homography, points: npt.NDArray[np.floating[Any]]) -> F64:
    """Points `(N, 2)` through a homography."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:], np.float64)


def upright(start: npt.NDArray[np.floating[Any]], end: npt.NDArray[np.floating[Any]]) -> Homography:
    """The scale and translation, without a turn, that brings points `(N, 2)` nearest to others."""
    middle, there = start.mean(axis=0), end.mean(axis=0)
    scale = float(((start - middle) * (end - there)).sum() / np.square(start - middle).sum())
    dx, dy = there - scale * middle
    return np.array([[scale, 0, dx], [0, scale, dy], [0, 0, 1]], np.float64)


def scale_at(matrix: Homography, point: npt.NDArray[np.floating[Any]]) -> float:
    """The square root of the change of area at a point."""
    return float(np.sqrt(abs(np.linalg.det(jacobian(matrix, point)))))


def jacobian(matrix: Homography, point: npt.NDArray[np.floating[Any]]) -> F64:
    """The map's derivative at a point, `(2, 2)`."""
    x, y, w = matrix @ np.array([point[0], point[1], 1.0])
    return np.asarray((matrix[:2, :2] - np.outer([x / w, y / w], matrix[2, :2])) / w, np.float64)


def centre_of(mask: Mask) -> tuple[F64, float]:
    """Middle of a mask's box as (x, y), and half of its longer side, at least 1."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return np.array([x + (width - 1) / 2, y + (height - 1) / 2]), max(width, height, 2) / 2


def plausible(matrix: Homography, shape: tuple[int, ...], mask: Mask) -> bool:
    """Whether reference -> view can be a picture of the reference: not mirrored, not a needle, not seen edge-on.

    Args:
        shape: The reference's `(H, W, ...)`.
        mask: M in the view.
    """
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        return False
    back = inverse(matrix)
    middle, half = centre_of(mask)
    corners = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    depth = np.append(corners, np.ones((4, 1)), axis=1) @ back[2]
    centre = float(back[2] @ [*middle, 1.0])
    if abs(centre) < 1e-9 or np.abs(depth / centre - 1).max() > _MAX_TILT:
        return False
    local = inverse(jacobian(back, middle))
    singular = np.linalg.svd(local, compute_uv=False)
    size = max(shape[0], shape[1]) / 512
    mirrored = np.linalg.det(local) <= 0
    in_range = _MIN_SCALE < singular[0] * size * 512 / max(mask.shape) < _MAX_SCALE
    return bool(not mirrored and in_range and singular[0] <= _MAX_STRETCH * singular[1])
