"""Where references appear: coarse poses from the search, refined and checked by the registration that refining uses."""

import hashlib
import posixpath
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from refine_ops import identity, storage
from refine_ops.config import ImageLimits
from refine_ops.detect.finding.config import FindLike
from refine_ops.detect.finding.found import Found, Quad
from refine_ops.detect.finding.like_search import (
    Sought,
    apart,
    brought_to,
    by_features,
    by_template,
    picture_points,
    points_of,
)
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.native import F32, IMAGE_SUFFIXES
from refine_ops.image.reference import decode_cut_out
from refine_ops.image.registration.agree import ComparedViews, Windows
from refine_ops.image.registration.descend import Pictures, Pose, descend, opponent
from refine_ops.image.registration.frames import Homography, inverse, plausible, project, resized, shift
from refine_ops.image.registration.warp import warp
from refine_ops.records import Mask, U8Image

_REFERENCE_PX: Final = 384
_PICTURE_PX: Final = 1600
"""Larger pictures are searched at this longer side; what is found is refined and measured on their own pixels."""
_VIEW_PX: Final = 320
_AROUND: Final = 0.3
_FIRST_PX: Final = (40,)
_LAST_PX: Final = (80, 128)
_ROUNDS: Final = 8
_TRIED: Final = 14
"""Coarse poses of one reference in one picture that are refined at most."""
_LIKELY: Final = 0.35
"""Least robust correlation at the smallest scale of a pose that is refined further."""
_FINISHED: Final = 2
"""Poses refined to the end beside as many as instances are wanted."""
_TELLING: Final = 0.2
"""Share of a reference's windows from which on they tell as much as they can: a triangle lies in every roof."""
_OVERLAP: Final = 0.4
_BLUR: Final = (0.65, 6.0)
"""Blur against the reference (px of the picture) that is as probably damage as not, and what one px more weighs."""
_LOST: Final = (0.3, 12.0)
"""The same of the share of windows in which hardly any of the reference's fine detail is left."""
_LEFT: Final = 0.15
"""Energy of fine detail, as a share of the reference's, below which hardly any is left."""
_FINE_PX: Final = 1.5
_SHOWN: Final = 1.0
"""Energy of fine detail, in squared levels, from which on the reference shows any."""


class LikeFinder:
    """Implements `Finder` over a few references; what each costs is in the chapter."""

    name = "like"

    def __init__(self, settings: FindLike, references: Sequence[Sought]) -> None:
        self._settings, self._references = settings, list(references)

    @property
    def classes(self) -> Collection[str]:
        return [sought.name for sought in self._references]

    @property
    def versions(self) -> dict[str, Any]:
        shown = {s.uri: hashlib.sha256(s.pixels.tobytes()).hexdigest()[:16] for s in self._references}
        return {"references": shown, **identity.versions(("opencv-python-headless",))}

    def find(self, image: U8Image) -> list[Found]:
        seen, scale = brought_to(image, _PICTURE_PX)
        points = picture_points(seen)
        smallest = max(12, round(self._settings.smallest_px * float(scale[0, 0])))
        back = inverse(scale)
        found: list[Found] = []
        for sought in self._references:
            starts = apart(by_features(sought, points) + by_template(sought, seen, smallest), sought)[:_TRIED]
            placed = [place for start in starts if (place := self._placed(image, sought, back @ start)) is not None]
            placed = sorted((p for p in placed if p.pose.score >= _LIKELY), key=lambda p: -p.pose.score)
            hits = [self._checked(image, sought, place) for place in placed[: _FINISHED + self._settings.instances]]
            found += _best([hit for hit in hits if hit is not None])[: self._settings.instances]
        return _best(found)

    def _placed(self, image: U8Image, sought: Sought, start: Homography) -> "_Placed | None":
        """A coarse pose refined at the smallest scale; None where it cannot be one."""
        quad = project(start, sought.corners)
        if not _sane(quad, image, self._settings.smallest_px):
            return None
        view, to_view = _view(image, quad)
        mask = np.zeros(view.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, np.rint(project(to_view, quad)).astype(np.int32), 1)
        if np.count_nonzero(mask) < 64:
            return None
        # Nothing is known to be damaged: what lies inside counts as much as what lies around.
        pictures = Pictures(view, mask > 0, sought.pixels, sought.valid, inside=1.0)
        pose = descend(pictures, to_view @ start, _FIRST_PX, _ROUNDS, affine_first=True)
        return _Placed(pictures, to_view, pose)

    def _checked(self, image: U8Image, sought: Sought, placed: "_Placed") -> Found | None:
        """The reference in its refined pose, if the picture agrees there."""
        pictures, to_view = placed.pictures, placed.to_view
        matrix = descend(pictures, placed.pose.matrix, _LAST_PX, _ROUNDS, affine_first=False).matrix
        if not plausible(matrix, sought.pixels.shape, pictures.mask):
            return None
        pose = inverse(to_view) @ matrix
        if not _sane(project(pose, sought.corners), image, self._settings.smallest_px):
            return None
        compared = _compared(pictures.view, sought, matrix)
        if compared is None:
            return None
        windows, correlation, lost = compared
        if windows.blurred_away:  # a reference that must be blurred beyond all that was tried agrees with any blob
            return None
        if (score := agreement_of(windows, correlation)) < self._settings.min_agreement:
            return None
        softness = _softness(windows.blur_px / float(to_view[0, 0]), lost)
        quad = _shown_quad(sought, pose)
        return Found(
            self.name,
            sought.name,
            quad,
            score,
            reference=sought.uri,
            pose=pose / pose[2, 2],
            softness=softness,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A coarse pose in its surroundings, `to_view` maps the picture to them."""

    pictures: Pictures
    to_view: Homography
    pose: Pose


def agreement_of(windows: Windows, correlation: float) -> float:
    """How far the picture agrees with a reference in its pose, in [0, 1]: the mean of the correlation of all of
    it, colours and flat parts too, and of the share of its windows that support it, where enough of them tell."""
    telling = min(1.0, windows.telling / _TELLING)
    return float(np.clip((correlation + windows.support * telling) / 2, 0, 1))


def read_references(folder: str, limits: ImageLimits) -> list[Sought]:
    """The references in a folder, or the one that is named, by name.

    Raises:
        JobError: there is none, one cannot be read, or two have one name.
    """
    try:
        place = storage.resolve(folder)
        named = [place] if place.lower().endswith(IMAGE_SUFFIXES) else list(storage.list_files(place))
        uris = [uri for uri in named if uri.lower().endswith(IMAGE_SUFFIXES)]
        if not uris:
            raise JobError(f"detector 'like': {folder} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
        found = [_sought(uri, limits) for uri in uris]
    except ItemError as e:
        raise JobError(f"detector 'like': {e}") from e
    names = [sought.name for sought in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise JobError(f"detector 'like': two references are named {twice[0]!r}; the name is their class, rename one")
    return found


def _sought(uri: str, limits: ImageLimits) -> Sought:
    pixels, valid = decode_cut_out(storage.read(uri, limits.max_bytes), name=uri, limits=limits)
    small, _ = brought_to(pixels, _REFERENCE_PX)
    if valid is not None:
        size = (small.shape[1], small.shape[0])
        valid = cv2.resize(valid.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
        if not valid.any():
            raise ItemError("reference.invisible", f"{uri}: hardly a pixel of it is there; give a larger picture")
    name = posixpath.splitext(posixpath.basename(uri))[0]
    return Sought(name, uri, small, valid, points_of(small, valid))


def _shown_quad(sought: Sought, pose: Homography) -> Quad:
    """The corners of what the reference shows: a cut-out may leave a wide border empty."""
    if sought.valid is None:
        return project(pose, sought.corners)
    x, y, width, height = cv2.boundingRect(sought.valid.astype(np.uint8))
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64) - 0.5
    return project(pose, corners)


def _view(image: U8Image, quad: Quad) -> tuple[U8Image, Homography]:
    """The surroundings of a place at 320 px at most, and the map from the picture to them."""
    low, high = quad.min(axis=0), quad.max(axis=0)
    reach = _AROUND * float((high - low).max())
    height, width = image.shape[:2]
    x0, y0 = (int(max(0, v)) for v in np.floor(low - reach))
    x1, y1 = (int(min(most, v)) for v, most in zip(np.ceil(high + reach) + 1, (width, height), strict=True))
    cut = np.ascontiguousarray(image[y0:y1, x0:x1])
    small, scale = resized(cut, min(1.0, _VIEW_PX / max(cut.shape[:2])))
    return small, scale @ shift(-x0, -y0)


def _sane(quad: Quad, image: U8Image, smallest_px: int) -> bool:
    """Whether the corners can be a reference seen in this picture: large enough, convex, most of it inside."""
    if not np.isfinite(quad).all() or np.abs(quad).max() > 1e6:
        return False
    flat = quad.astype(np.float32)
    area = float(cv2.contourArea(flat))
    if np.ptp(quad, axis=0).max() < smallest_px or area < 16 or not cv2.isContourConvex(flat):
        return False
    height, width = image.shape[:2]
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return float(cv2.intersectConvexConvex(flat, frame)[0]) >= 0.7 * area


def _compared(view: U8Image, sought: Sought, matrix: Homography) -> tuple[Windows, float, float] | None:
    """Reference against picture, where the reference lies: by windows, the correlation of all of it in brightness and
    colours, and how much of its fine detail is lost; None where too little of it is there."""
    mask = np.zeros(view.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(project(matrix, sought.corners)).astype(np.int32), 1)
    if not mask.any():
        return None
    warped, covered = warp(sought.pixels, sought.valid, matrix, (view.shape[0], view.shape[1]), mask > 0)
    part = (mask > 0) & covered
    if np.count_nonzero(part) < 64:
        return None
    windows = ComparedViews(view, warped, covered, part).inside()
    # Not at the very edge: there a cut-out's ground shows through.
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    soft = np.asarray(cv2.GaussianBlur(warped, (0, 0), max(windows.blur_px, 0.3)), np.uint8)
    return windows, _correlation(opponent(view)[inner], opponent(soft)[inner]), _lost(view, warped, inner)


def _correlation(one: F32, other: F32) -> float:
    """Of pixels `(N, 3)`, each channel without its mean."""
    if len(one) < 64:
        return 0.0
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    own = float(np.sqrt(float(np.square(a).sum()) * float(np.square(b).sum())))
    return float((a * b).sum()) / max(own, len(one) * 1.0)


def _softness(blur_px: float, lost: float) -> float:
    """How probably it is damaged: blurred as a whole, or in places."""
    logit = max(weight * (value - limit) for value, (limit, weight) in ((blur_px, _BLUR), (lost, _LOST)))
    return float(1 / (1 + np.exp(-logit)))


def _lost(view: U8Image, warped: U8Image, part: Mask) -> float:
    """Share of what the reference shows finely in which the view shows hardly anything."""
    there, wanted = (_fine(image) for image in (view, warped))
    telling = part & (wanted > _SHOWN)
    return float((there < _LEFT * wanted)[telling].mean()) if np.count_nonzero(telling) >= 64 else 0.0


def _fine(image: U8Image) -> F32:
    grey = opponent(image)[..., 0]
    band = grey - cv2.GaussianBlur(grey, (0, 0), _FINE_PX)
    return np.asarray(cv2.blur(np.square(band), (11, 11)), np.float32)


def _best(found: list[Found]) -> list[Found]:
    """The best, without those that lie where a better one does."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda f: (-f.score, f.name)):
        area = float(cv2.contourArea(one.quad.astype(np.float32)))
        if all(_common(one.quad, k.quad) < _OVERLAP * min(area, _area(k.quad)) for k in kept):
            kept.append(one)
    return kept


def _area(quad: Quad) -> float:
    return float(cv2.contourArea(quad.astype(np.float32)))


def _common(one: Quad, other: Quad) -> float:
    return float(cv2.intersectConvexConvex(one.astype(np.float32), other.astype(np.float32))[0])
