"""Undo what the model did to the whole crop, estimated where the truth is known: outside the blend's support."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import AlignSettings
from refine_ops.image.focus import NO_DISPLACEMENT, Displacement, unview
from refine_ops.image.formats.native import F32
from refine_ops.image.patch import tone
from refine_ops.records import Alignment, F32Image, FocusCrop, Mask, U8Image

_WORK_SIDE_PX: Final = 768
_LEAST_SEEN_PX: Final = 16
_MAX_POINTS: Final = 600
_MIN_POINTS: Final = 12
_MIN_INLIERS: Final = 0.5
_INLIER_PX: Final = 0.5
_WINDOW_PX: Final = (15, 15)
_LEVELS: Final = 3
_MIN_SHIFT_PX: Final = 0.1
"""Displacements below this anywhere in the crop are left alone: undoing them gains nothing that can be seen."""
_MAX_ERROR_RATIO: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What `undo` will undo, and the record of it. `colour` is a 3x4 matrix in linear light, or None."""

    displacement: Displacement
    colour: F32 | None
    alignment: Alignment

    @property
    def applies(self) -> bool:
        return self.displacement != NO_DISPLACEMENT or self.colour is not None


NO_CORRECTION: Final = Correction(NO_DISPLACEMENT, None, Alignment())


def known_pixels(crop: FocusCrop, support: Mask, generated: Mask) -> Mask:
    """Where the truth is known and the model drew it itself, `bool (crop h, crop w)`.

    Args:
        support: The blend's support on C, `bool (crop h, crop w)`.
        generated: `Patch.generated`, `bool (h, w)`, model resolution.
    """
    if generated.all():
        return ~support
    drawn = unview(np.repeat(generated[:, :, None], 3, axis=2).astype(np.float32), crop)[..., 0]
    return ~support & (drawn > 0.9)  # the resampling rings by up to 9 %


def estimate(truth: U8Image, patch: F32Image, crop: FocusCrop, known: Mask, settings: AlignSettings) -> Correction:
    """Translation, scale and colour shift of `patch` against the source's own pixels.

    Geometry: corners tracked from the source into the patch (pyramidal Lucas-Kanade, checked both ways), reduced by
    RANSAC, then least squares over the inliers for shift and scale. Colour: `tone.fit`. Either is kept only where the
    evidence is strong, the size within `settings`, and the error on the known pixels falls; else it is identity.

    Args:
        truth: The source on C, `uint8 (crop h, crop w, 3)`.
        patch: What the model made, model resolution.
        known: `known_pixels`.
    """
    if int(np.count_nonzero(known)) < settings.min_known_px or not (settings.geometry or settings.tone):
        return NO_CORRECTION
    size, seen_truth, seen_known = _at_work_size(truth, crop, known)
    if int(np.count_nonzero(seen_known)) < _LEAST_SEEN_PX:  # a thin rim is between the pixels of a smaller picture
        return NO_CORRECTION
    seen = unview(patch, crop, size=size)
    displacement, share = NO_DISPLACEMENT, 0.0
    if settings.geometry:
        found, share = _geometry(seen_truth, seen, seen_known, crop, settings)
        moved = unview(patch, crop, found, size) if found != NO_DISPLACEMENT else seen
        # Points can agree on a motion that the picture does not show (a moved pattern): the pixels have the last word.
        if _error(seen_truth, moved, seen_known) < _MAX_ERROR_RATIO * _error(seen_truth, seen, seen_known):
            displacement, seen = found, moved
    shift = tone.fit(seen_truth, seen, seen_known, max_de00=settings.max_de00)
    colour = shift.matrix if settings.tone and shift.worthwhile else None
    # What is recorded is what will be undone, not what was found and rejected.
    matrix = tone.IDENTITY if colour is None else colour
    alignment = Alignment(
        measured=True,
        geometry_applied=displacement != NO_DISPLACEMENT,
        tone_applied=colour is not None,
        dx_px=displacement.dx_px,
        dy_px=displacement.dy_px,
        scale=displacement.scale,
        gain=(float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[2, 2])),
        offset=(float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3])),
        de00_before=shift.de00_before,
        de00_after=shift.de00_before if colour is None else shift.de00_after,
        inlier_share=share,
    )
    return Correction(displacement, colour, alignment)


def undo(patch: F32Image, crop: FocusCrop, correction: Correction) -> F32:
    """The patch on C at native resolution with its displacement undone: one colour map, one resampling.

    Colour first, at model resolution, where the number of pixels is bounded.
    """
    mapped = patch if correction.colour is None else tone.apply(patch, correction.colour)
    return unview(mapped, crop, correction.displacement)


def _at_work_size(truth: U8Image, crop: FocusCrop, known: Mask) -> tuple[tuple[int, int], U8Image, Mask]:
    """C reduced to what the model saw of it, at most 768 px a side: finer detail holds no evidence."""
    height, width = truth.shape[:2]
    view_width = width + crop.pad[0] + crop.pad[2]
    factor = min(1.0, crop.size[0] / view_width, _WORK_SIDE_PX / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if factor == 1.0:
        return size, np.ascontiguousarray(truth), known
    small = np.asarray(Image.fromarray(np.ascontiguousarray(truth)).resize(size, Image.Resampling.LANCZOS))
    covered = Image.fromarray(known.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return size, small, np.asarray(covered) > 0.999  # known only where every pixel under it was; 1.0 is not exact


def _geometry(
    truth: U8Image, seen: F32, known: Mask, crop: FocusCrop, settings: AlignSettings
) -> tuple[Displacement, float]:
    """Displacement and the share of tracked points that agree with it; `NO_DISPLACEMENT` when in doubt."""
    start, end = _tracked(truth, seen, known)
    if len(start) < _MIN_POINTS:
        return NO_DISPLACEMENT, 0.0
    _, inlying = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=_INLIER_PX)
    # RANSAC may also turn the picture; only its choice of points is kept, and the model refits them without a turn.
    keep = np.zeros(len(start), np.bool_) if inlying is None else inlying[:, 0] > 0
    share = float(keep.mean())
    if keep.sum() < _MIN_POINTS or share < _MIN_INLIERS:
        return NO_DISPLACEMENT, share
    height, width = truth.shape[:2]
    native_per_px = (crop.crop[2] - crop.crop[0]) / width
    # It turns about the view's centre, padding included; in work pixels, relative to C's corner:
    left, top, right, bottom = (side / native_per_px for side in crop.pad)
    centre = np.array([(width + right - left) / 2, (height + bottom - top) / 2]) - 0.5
    scale, shift = _scale_and_shift(start[keep] - centre, end[keep] - centre, max(width, height) / 2)
    zoom = crop.size[0] / (crop.crop[2] - crop.crop[0] + crop.pad[0] + crop.pad[2])
    dx, dy = (float(v) * native_per_px for v in shift)
    # A large estimate is more likely a wrong one: what is over the limits is left alone, not clipped to them.
    if abs(scale - 1) > settings.max_scale or max(abs(dx), abs(dy)) * zoom > settings.max_shift_px:
        return NO_DISPLACEMENT, share
    return Displacement(dx, dy, scale), share


def _tracked(truth: U8Image, seen: F32, known: Mask) -> tuple[F32, F32]:
    """Corners of the known truth and where they are in `seen`: two `(N, 2)` arrays of (x, y), work pixels."""
    before = cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY)
    after = cv2.cvtColor(np.rint(seen * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    # Lucas-Kanade takes brightness for constant: a tone shift would read as motion, so both get one mean and contrast.
    level = float(before[known].std()) / max(float(after[known].std()), 1e-3)
    levelled = (after - after[known].mean()) * level + before[known].mean()
    after = np.clip(np.rint(levelled), 0, 255).astype(np.uint8)
    corners = cv2.goodFeaturesToTrack(before, _MAX_POINTS, 0.01, 4, mask=known.view(np.uint8))
    if corners is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    # There and back: a corner that does not come home was tracked onto something else.
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=_WINDOW_PX, maxLevel=_LEVELS)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=_WINDOW_PX, maxLevel=_LEVELS)
    good = (found & found_back)[:, 0] > 0
    good &= np.linalg.norm((back - corners)[:, 0], axis=1) < _INLIER_PX
    return corners[good, 0], there[good, 0]


def _scale_and_shift(start: F32, end: F32, half_side: float) -> tuple[float, npt.NDArray[np.float64]]:
    """Least squares `end = scale * start + shift`; a scale or shift inside its own error is none."""
    middle = start.mean(axis=0)
    spread = float(((start - middle) ** 2).sum())
    moved = end - end.mean(axis=0)
    scale = float((moved * (start - middle)).sum()) / max(spread, 1e-6)
    residual = moved - scale * (start - middle)
    sigma = float(np.sqrt((residual**2).mean()))
    if abs(scale - 1) < 3 * sigma / np.sqrt(max(spread, 1e-6)) or abs(scale - 1) * half_side < _MIN_SHIFT_PX:
        scale = 1.0
    shift = np.asarray(end.mean(axis=0) - scale * middle, np.float64)
    if np.abs(shift).max() < max(_MIN_SHIFT_PX, 3 * sigma / np.sqrt(len(start))) and scale == 1.0:
        shift = np.zeros(2)
    return scale, shift


def _error(truth: U8Image, seen: F32, known: Mask) -> float:
    """Mean absolute difference on known pixels once each channel's mean and contrast agree."""
    wanted, got = truth[known].astype(np.float32), seen[known]
    got = (got - got.mean(axis=0)) / np.maximum(got.std(axis=0), 1e-4)
    wanted = (wanted - wanted.mean(axis=0)) / np.maximum(wanted.std(axis=0), 1e-2)
    return float(np.abs(got - wanted).mean())
