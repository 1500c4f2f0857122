"""Coarse poses of a flat mark without local features: parts of the reference sought as templates near the mask."""

from typing import Final

import cv2
import numpy as np

from refine_ops.image.formats.native import F32
from refine_ops.image.registration.descend import opponent
from refine_ops.image.registration.features import CoarsePose
from refine_ops.image.registration.frames import Homography, centre_of, inverse, resized, shift
from refine_ops.records import Mask, U8Image

_VIEW_PX: Final = 48
_REFERENCE_PX: Final = 96
_BLUR_PX: Final = 1.1
_PARTS: Final = (0.4, 0.65, 0.95)
"""Central parts of the reference, by its shorter and longer side: a photographed one shows more than the object."""
_SIZES: Final = 7
_ANGLES: Final = tuple(range(-40, 41, 10))
_KEPT: Final = 6


def search(reference: U8Image, view: U8Image, mask: Mask, kept: int = _KEPT) -> list[CoarsePose]:
    """The best poses that differ, by normalised correlation of brightness and colour at 48 px.

    Templates are `part` of the reference over seven sizes (0.35 to 1.5 of the mask's) and nine angles; their
    middle lies near the mask's.
    """
    small, scale = resized(opponent(view), _VIEW_PX / max(view.shape[:2]))
    small = cv2.GaussianBlur(small, (0, 0), _BLUR_PX)
    model, reduced = resized(opponent(reference), _REFERENCE_PX / max(reference.shape[:2]))
    middle, half = centre_of(mask)
    middle, half = middle * np.diag(scale)[:2] + scale[:2, 2], half * scale[0, 0]
    pad = _VIEW_PX
    wide = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    found: list[tuple[float, Homography]] = []
    for part in _PARTS:
        found += _of_part(wide, model, part, middle + pad, half)
    found.sort(key=lambda pose: -pose[0])
    undo = inverse(scale) @ shift(-pad, -pad)
    chosen: list[Homography] = []
    for _, matrix in found:
        if all(_apart(matrix, other, model.shape) > 0.12 * 2 * half for other in chosen):
            chosen.append(matrix)
        if len(chosen) == kept:
            break
    return [CoarsePose(undo @ matrix @ reduced, "search") for matrix in chosen]


def _of_part(wide: F32, model: F32, part: float, middle: np.ndarray, half: float) -> list[tuple[float, Homography]]:
    height, width = model.shape[:2]
    across = np.array([width, height]) * part
    found = []
    for side in np.geomspace(0.7, 3.0, _SIZES) * half:
        factor = side / across.max()
        blurred = cv2.GaussianBlur(model, (0, 0), max(0.3, _BLUR_PX / factor))
        for angle in _ANGLES:
            turn = np.deg2rad(angle)
            c, s = factor * np.cos(turn), factor * np.sin(turn)
            size = np.maximum(np.rint(across * factor).astype(int), 4)
            matrix = np.array([[c, -s, 0.0], [s, c, 0.0]])
            matrix[:, 2] = (size - 1) / 2 - matrix[:, :2] @ ((np.array([width, height]) - 1) / 2)
            template = cv2.warpAffine(blurred, matrix, (int(size[0]), int(size[1])), borderMode=cv2.BORDER_REPLICATE)
            found.append(_best(wide, template, matrix, middle, half))
    return [pose for pose in found if pose is not None]


def _best(
    wide: F32, template: F32, matrix: np.ndarray, middle: np.ndarray, half: float
) -> tuple[float, Homography] | None:
    """Where the template lies best, its middle within the mask's box."""
    height, width = template.shape[:2]
    reach = 0.9 * half + 2
    x0, y0 = (int(v) for v in np.floor(middle - reach - np.array([width, height]) / 2))
    x1, y1 = (int(v) for v in np.ceil(middle + reach + np.array([width, height]) / 2))
    x0, y0 = max(x0, 0), max(y0, 0)
    part = wide[y0:y1, x0:x1]
    if part.shape[0] < height or part.shape[1] < width or float(template.std(axis=(0, 1)).max()) < 1:
        return None
    scores = cv2.matchTemplate(part, template, cv2.TM_CCOEFF_NORMED)
    _, score, _, at = cv2.minMaxLoc(np.nan_to_num(scores, nan=-1.0, posinf=-1.0, neginf=-1.0))
    pose = shift(x0 + at[0], y0 + at[1]) @ np.vstack([matrix, [0, 0, 1]])
    return float(score) * (min(width, height) / (2 * half)) ** 0.25, pose


def _apart(one: Homography, other: Homography, shape: tuple[int, ...]) -> float:
    corners = np.array([[0, 0, 1], [shape[1], 0, 1], [shape[1], shape[0], 1], [0, shape[0], 1]], np.float64).T
    return float(np.linalg.norm((one @ corners - other @ corners)[:2], axis=0).mean())
