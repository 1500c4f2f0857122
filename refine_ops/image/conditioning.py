"""What the model is given for a region (Eq. 5-6): one tile after the other, each with its part of the reference.

A run and a training both come here, so that an adapter is trained on what it will be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from refine_ops.image import focus
from refine_ops.image.patch.tiles import Tile
from refine_ops.image.place import Place
from refine_ops.image.registration.frames import Homography, inverse, resized, scaling, shift
from refine_ops.image.registration.redraw import redrawn
from refine_ops.image.registration.register import Registered, best_of
from refine_ops.records import Agreement, Conditioning, FocusCrop, Mask, ReferencePolicy, U8Image

_REGION_PX: Final = 512
"""Longer side of the view on which the reference of a region of several tiles is registered."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A region's reference, sought once for all of its tiles.

    `given` is the first as it came. Where references are registered, `found` is the one that agrees best, `pixels` its
    own, and `to_image` maps the view that it was found on to the image: None where that was the one tile's own. `more`
    are the others as they came.
    """

    given: U8Image | None = None
    found: Registered | None = None
    pixels: U8Image | None = None
    to_image: Homography | None = None
    unverifiable_too: bool = False
    more: tuple[U8Image, ...] = ()

    @property
    def agreement(self) -> Agreement | None:
        return self.found.agreement if self.found else None

    @property
    def fits(self) -> bool:
        """Whether the registered reference may be used."""
        taken = ("fits", "cannot tell") if self.unverifiable_too else ("fits",)
        return self.found is not None and self.found.agreement.verdict in taken and self.found.pixels is not None

    def to(self, given: Conditioning, tile: Tile) -> Conditioning:
        """A tile's conditioning with its part of the reference."""
        given = replace(given, more=self.more)
        if self.found is None:
            return replace(given, reference=self.given)
        given = replace(given, agreement=self.found.agreement, given=self.given)
        if not self.fits:
            return given
        if self.to_image is None:
            return replace(given, reference=self.found.pixels, covered=self.found.covered)
        assert self.pixels is not None
        to_view = _to_view(tile.crop) @ self.to_image
        pixels, covered = redrawn(self.found, self.pixels, given.image, given.mask, to_view)
        return replace(given, reference=pixels, covered=covered)


def shown(seen: U8Image, tile: Tile, marked: Mask, support: Mask, *, prompt: str, seed: int) -> Conditioning:
    """What the model is given of one tile but for its reference.

    Args:
        seen: The tile's crop of the image with what the tiles before have made, `uint8 (h, w, 3)`.
        marked, support: M and what will be pasted, as far as no tile before has made it, likewise.
    """
    return Conditioning(
        image=focus.view_of(seen, tile.crop),
        # The blend reaches past M: a tile that holds nothing of M but some rim is asked for that.
        mask=focus.view_mask(marked if marked.any() else support, tile.crop),
        support=focus.view_mask(support, tile.crop),
        prompt=prompt,
        seed=seed,
    )


def fit(
    rgb: U8Image,
    place: Place,
    first: Conditioning,
    references: Sequence[tuple[str, U8Image]],
    policy: ReferencePolicy,
    unverifiable_too: bool = False,
) -> Fitted:
    """The reference for a region.

    Args:
        rgb: The whole image, upright, `uint8 (H, W, 3)`.
        first: The region's first tile: on it a reference is registered where there is but one.
        references: Name and pixels of each; as given, the model sees the first.
        policy: `registered`: the one that agrees best, in the view's frame, or none where none fits.
        unverifiable_too: Take a registered one, too, that nothing left of the region confirms.
    """
    if not references:
        return Fitted()
    given, more = references[0][1], tuple(pixels for _, pixels in references[1:])
    if policy == "as_given":
        return Fitted(given, more=more)
    view, mask, to_image = first.image, first.mask, None
    if len(place.tiles) > 1:
        view, mask, to_image = _region_view(rgb, place)
    found = best_of(references, view, mask)
    if found.transform is not None:
        pose = (inverse(_to_view(place.tiles[0].crop)) if to_image is None else to_image) @ found.transform
        known = replace(found.agreement, pose=tuple((pose / pose[2, 2]).ravel().tolist()))
        found = replace(found, agreement=known)
    return Fitted(given, found, dict(references)[found.agreement.reference], to_image, unverifiable_too, more)


def whole(
    rgb: U8Image,
    place: Place,
    *,
    prompt: str,
    seed: int,
    references: Sequence[tuple[str, U8Image]] = (),
    policy: ReferencePolicy = "as_given",
) -> Conditioning:
    """What the model is given for a region of one tile, as training has them."""
    (tile,) = place.tiles
    seen = focus.crop_of(rgb, tile.crop.crop)
    given = shown(seen, tile, place.marked, place.support, prompt=prompt, seed=seed)
    return fit(rgb, place, given, references, policy).to(given, tile)


def _region_view(rgb: U8Image, place: Place) -> tuple[U8Image, Mask, Homography]:
    """The region with its margin at 512 px at most, M on it, and the way from there to the image."""
    x0, y0, x1, y1 = place.around
    small, scale = resized(focus.crop_of(rgb, place.around), min(1.0, _REGION_PX / max(x1 - x0, y1 - y0)))
    tight, crop = place.crop.tight, place.crop.crop
    marked = np.zeros((y1 - y0, x1 - x0), np.uint8)
    part = (tight[0] - crop[0], tight[1] - crop[1], tight[2] - crop[0], tight[3] - crop[1])
    focus.crop_of(marked, (tight[0] - x0, tight[1] - y0, tight[2] - x0, tight[3] - y0))[:] = focus.crop_of(
        place.marked, part
    ) * np.uint8(255)
    mask = cv2.resize(marked, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA) > 0
    return small, mask, shift(x0, y0) @ inverse(scale)


def _to_view(crop: FocusCrop) -> Homography:
    """From the image's pixels to those of the crop's view."""
    x0, y0, x1, y1 = crop.crop
    left, top, right, bottom = crop.pad
    zoom = crop.size[0] / (left + x1 - x0 + right), crop.size[1] / (top + y1 - y0 + bottom)
    return scaling(*zoom) @ shift(left - x0, top - y0)
