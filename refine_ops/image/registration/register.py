"""A reference brought into the region's pose, or refused: coarse poses, one refinement for all, one check that decides.

    coarse poses    local features; parts of the reference sought as templates, for flat marks without features
    refinement      homography, coarse to fine, on pixels that can be trusted; the best few distinct poses go on
    check           what agrees around the region, what in the region supports or contradicts the reference

Nothing is drawn but by OpenCV's generator, which is set first, so equal inputs give equal bytes in every thread and
process. The pictures are the caller's; nothing is read and nothing kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from refine_ops.image.registration import features, search
from refine_ops.image.registration.agree import ComparedViews
from refine_ops.image.registration.descend import Pictures, descend, score_at
from refine_ops.image.registration.features import CoarsePose
from refine_ops.image.registration.frames import (
    Homography,
    centre_of,
    inverse,
    plausible,
    project,
    resized,
    scale_at,
    scaling,
    upright,
)
from refine_ops.image.registration.harmonise import Tone, fit_tone, match_sharpness
from refine_ops.image.registration.verdict import PoseMeasures, agreement
from refine_ops.image.registration.warp import warp
from refine_ops.records import Agreement, Mask, U8Image

_WORK_PX: Final = 512
"""The view's longer side at most, while poses are sought; the warp is at its full size."""
_FIRST_PX: Final = 40
_SECOND_PX: Final = 80
_LAST_PX: Final = (128, 224)
_CHECK_PX: Final = 160
_ROUNDS: Final = 8
_SINGULAR: Final = 1e-9
_BLURRED_PX: Final = 1.5
_SHARPER: Final = 0.005
"""By this the windows of a blurred region must agree better with a pose that was refined against them."""
_IN_PLACE_PX: Final = 1.0
_AS_GOOD: Final = 0.01
"""Of the rank: a simpler pose this near, in px at the scale of the check, is taken where it agrees as well."""
_TRIED: Final = 3
_FINISHED: Final = 2
_SURE: Final = 1.0
_CLOSE: Final = 0.25
_APART: Final = (0.06, 0.03)
"""Poses whose corners of the mask's box lie nearer than this share of its side are one: after 40 px, after 80 px."""


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """A reference in the view's frame.

    `pixels` `uint8 (h, w, 3)` is the reference warped, its tone matched to the view, and the view itself where it does
    not reach; `covered` `bool (h, w)` is where it does; `transform` `float64 (3, 3)` maps its pixels to the view's;
    `tone` is what matched its light. None of the four where no pose was found.
    """

    agreement: Agreement
    pixels: U8Image | None = None
    covered: Mask | None = None
    transform: Homography | None = None
    tone: Tone | None = None


def register(reference: U8Image, view: U8Image, mask: Mask, valid: Mask | None = None) -> Registered:
    """The reference in the pose it has in the view, at the view's size.

    Args:
        reference: RGB `uint8 (H, W, 3)`, at any size.
        view: The focus crop at the size the model sees, `uint8 (h, w, 3)`, damaged inside the mask.
        mask: M in the view, `bool (h, w)`, not empty.
        valid: Where the reference shows anything (padding and transparency do not), `bool (H, W)`; None: everywhere.
    """
    # RANSAC draws from OpenCV's one generator: without this a pose may depend on what was registered before.
    cv2.setRNGSeed(0)
    small, scale = resized(view, min(1.0, _WORK_PX / max(view.shape[:2])))
    size = (small.shape[1], small.shape[0])
    within = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 0
    pictures = Pictures(np.asarray(small, np.uint8), within, reference, valid)
    found = find(pictures)
    if found is None:
        return Registered(Agreement(verdict="refused", reason="nothing in the picture looks like it", method="none"))
    found, measured = _weighed(pictures, found)
    transform = inverse(scale) @ found.matrix
    warped, covered = warp(reference, valid, transform, view.shape[:2], mask)
    warped = match_sharpness(warped, measured.surroundings, 1 / scale[0, 0])
    tone = fit_tone(view, mask, warped, covered)
    return Registered(
        agreement(measured, found.coarse.method, found.coarse.inliers),
        tone.given_to(warped, view, covered),
        covered,
        transform / transform[2, 2],
        tone,
    )


def best_of(references: Sequence[tuple[str, U8Image]], view: U8Image, mask: Mask) -> Registered:
    """The reference that agrees best, of up to 16 (name, pixels): what fits before what cannot be told before what is
    refused, then by rank; its name and its lead over the second are recorded."""
    tried = [(name, register(pixels, view, mask)) for name, pixels in references]
    order = {"fits": 2, "cannot tell": 1, "refused": 0}
    tried.sort(key=lambda one: (-order[one[1].agreement.verdict], -one[1].agreement.rank))
    (name, best), ranks = tried[0], [one.agreement.rank for _, one in tried]
    lead = ranks[0] - ranks[1] if len(ranks) > 1 else 0.0
    return replace(best, agreement=replace(best.agreement, reference=name, lead=lead))


@dataclass(frozen=True, slots=True, eq=False)
class RefinedPose:
    """A refined pose, reference -> view. `overall` and `around` are robust correlations in [-1, 1], with the masked
    inside counted little and not at all; `trusted` says which of the two it was refined by."""

    coarse: CoarsePose
    matrix: Homography
    trusted: bool
    overall: float
    around: float

    @property
    def rank(self) -> float:
        """Explained variance of both: an erased inside says nothing, and neither do flat surroundings."""
        return max(self.overall, 0.0) ** 2 + max(self.around, 0.0) ** 2 / 2


def find(pictures: Pictures) -> RefinedPose | None:
    """The best pose of the reference in the view, right or wrong; None where nothing plausible was found."""
    # Keypoints first, they are quick; the search over places only where they found nothing that is sure.
    seen, shown = features.keypoints(pictures.view), features.keypoints(pictures.reference, pictures.valid)
    tried = _tried(pictures, features.poses(shown, seen, max(pictures.mask.shape)))
    if not tried or tried[0].rank < _SURE:
        tried += _tried(pictures, search.search(pictures.reference, pictures.view, pictures.mask))
        tried.sort(key=lambda c: -c.rank)
    best = [c for c in _distinct(pictures.mask, tried, _APART[1])[:_FINISHED] if c.rank > tried[0].rank - _CLOSE]
    # With the inside and without: a region that is there confirms a pose, a damaged one pulls it away.
    finished = [
        _descended(pictures, c.coarse, c.matrix, _LAST_PX, trusted, check_px=_CHECK_PX)
        for c in best
        for trusted in (True, False)
    ]
    likely = [c for c in finished if plausible(c.matrix, pictures.reference.shape, pictures.mask)]
    best_of_all = max(likely, key=lambda c: c.rank, default=None)
    return None if best_of_all is None else _settled(pictures, best_of_all)


def _tried(pictures: Pictures, coarse: Sequence[CoarsePose]) -> list[RefinedPose]:
    """The few that differ, refined at the second scale, best first."""
    coarse = [pose for pose in coarse if abs(np.linalg.det(pose.matrix)) > _SINGULAR]
    tried: list[RefinedPose] = []
    for trusted in (True, False):
        # Perspective is held at the smallest scale, where a few pixels would explain anything by it.
        first = [_descended(pictures, pose, pose.matrix, (_FIRST_PX,), trusted, affine_first=True) for pose in coarse]
        first.sort(key=lambda c: -(c.overall if trusted else c.around))
        tried += _distinct(pictures.mask, first, _APART[0])[:_TRIED]
    tried = [_descended(pictures, c.coarse, c.matrix, (_SECOND_PX,), c.trusted) for c in tried]
    return sorted(tried, key=lambda c: -c.rank)


def _descended(
    pictures: Pictures,
    coarse: CoarsePose,
    start: Homography,
    sides_px: Sequence[int],
    trusted: bool,
    affine_first: bool = False,
    check_px: int | None = None,
) -> RefinedPose:
    matrix = descend(pictures, start, sides_px, _ROUNDS, affine_first, trusted).matrix
    scores = [score_at(pictures, matrix, check_px or sides_px[-1], inside) for inside in (True, False)]
    return RefinedPose(coarse, matrix, trusted, *scores)


def _distinct(mask: Mask, poses: Sequence[RefinedPose], apart: float) -> list[RefinedPose]:
    """The plausible ones in their order, without those that say the same as one before."""
    middle, half = centre_of(mask)
    corners = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    kept: list[RefinedPose] = []
    for pose in poses:
        if abs(np.linalg.det(pose.matrix)) < _SINGULAR:
            continue
        back = project(inverse(pose.matrix), corners)
        if any(np.abs(project(k.matrix, back) - corners).mean() < apart * 2 * half for k in kept):
            continue
        kept.append(pose)
    return kept


def _settled(pictures: Pictures, found: RefinedPose) -> RefinedPose:
    """The same, or where the reference lies in place (the whole view, or upright in it) exactly that: what a pose is
    uncertain by would be blur."""
    middle, half = centre_of(pictures.mask)
    corners = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    (height, width), shown = pictures.mask.shape, pictures.reference.shape
    start = project(inverse(found.matrix), corners)
    for exact in (scaling(width / shown[1], height / shown[0]), upright(start, corners)):
        if np.abs(project(exact, start) - corners).max() > _IN_PLACE_PX * max(width, height) / _CHECK_PX:
            continue
        overall, around = (score_at(pictures, exact, _CHECK_PX, inside) for inside in (True, False))
        settled = replace(found, matrix=exact, overall=overall, around=around)
        if settled.rank > found.rank - _AS_GOOD:
            return settled
    return found


def _weighed(pictures: Pictures, found: RefinedPose) -> tuple[RefinedPose, PoseMeasures]:
    """The pose and what speaks for it; where the region is blurred, refined once more with the reference as blurred."""
    compared, covered = _compared(pictures, found)
    inside = compared.inside()
    if inside.blur_px > _BLURRED_PX:
        again = _settled(pictures, _sharpened(pictures, found, inside.blur_px))
        if plausible(again.matrix, pictures.reference.shape, pictures.mask):
            other, other_covered = _compared(pictures, again)
            better = other.inside()
            if better.mean > inside.mean + _SHARPER:
                found = replace(found, matrix=again.matrix)
                compared, covered, inside = other, other_covered, better
    return found, PoseMeasures(found.rank, found.around, covered, inside, compared.coarse(), compared.around())


def _compared(pictures: Pictures, found: RefinedPose) -> tuple[ComparedViews, float]:
    view, mask = pictures.view, pictures.mask
    warped, covered = warp(pictures.reference, pictures.valid, found.matrix, mask.shape, mask)
    return ComparedViews(view, warped, covered, mask), float(covered[mask].mean())


def _sharpened(pictures: Pictures, found: RefinedPose, blur_px: float) -> RefinedPose:
    """The pose refined against a blurred inside: with the reference blurred as much (view px), the inside is as good as
    any other pixel, and often all there is."""
    at = project(inverse(found.matrix), centre_of(pictures.mask)[0][None])[0]
    alike = cv2.GaussianBlur(pictures.reference, (0, 0), max(0.3, blur_px / scale_at(found.matrix, at)))
    blurred = Pictures(pictures.view, pictures.mask, alike, pictures.valid, inside=1.0)
    return _descended(blurred, found.coarse, found.matrix, _LAST_PX, True, check_px=_CHECK_PX)
