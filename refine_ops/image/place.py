"""One region's place in an image: where the model looks, what it is given, and how its answer is pasted back.

A run and a training both come here, so that an adapter is trained on what it will be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refine_ops.config import FocusSettings, PasteSettings
from refine_ops.errors import ItemError
from refine_ops.image import focus
from refine_ops.image.paste import blend_mask
from refine_ops.image.region import PackedMask, paste_mask
from refine_ops.image.registration.register import best_of
from refine_ops.image.source import Source, as_stored, upright
from refine_ops.records import Blend, Conditioning, FocusCrop, Mask, PastePolicy, ReferencePolicy, U8Image


@dataclass(frozen=True, slots=True, eq=False)
class Marking:
    """A region as it waits for its turn. `within` is where `confine: region` lets the image change; None: anywhere."""

    mask: PackedMask
    paste: PastePolicy
    within: PackedMask | None = None

    @classmethod
    def of(cls, source: Source, mask: Mask, policy: PastePolicy, settings: PasteSettings) -> "Marking":
        """
        Args:
            mask: M, `bool (H, W)`, not empty.

        Raises:
            ItemError: `region.below_mcu` where `confine: region` leaves a JPEG's region nothing that may change.
        """
        within = None
        if settings.confine == "region":
            within = PackedMask.of(permitted(source, paste_mask(mask, policy)))
        return cls(PackedMask.of(mask), policy, within)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a region's patch comes from and goes to; arrays lie on C = `crop.crop`, `(crop h, crop w)`.

    `marked` is M; `pasted` is what is pasted back, M or the whole of its box; `blend` is Eq. 8 on that.
    """

    crop: FocusCrop
    marked: Mask
    pasted: Mask
    blend: Blend

    @property
    def support(self) -> Mask:
        return self.blend > 0


def permitted(source: Source, region: Mask) -> Mask:
    """Where `confine: region` lets the image change, `bool (H, W)`: inside `region`; in a JPEG, in MCUs wholly inside.

    Raises:
        ItemError: `region.below_mcu` where no MCU lies wholly inside the region.
    """
    # MCUs are counted from the corner of the picture as it is stored, which need not be the upright one's.
    orientation = source.native.orientation
    stored = np.ascontiguousarray(as_stored(region, orientation))
    inside = source.file.wholly_inside(stored)
    if not inside.any():
        raise ItemError(
            "region.below_mcu", f"{source.name}: no JPEG block lies wholly inside the region; use confine: none"
        )
    return upright(inside, orientation)


def find(marking: Marking, looks: FocusSettings, paste: PasteSettings, *, grid_px: int, focus_pixels: int) -> Place:
    """The place of a region (Eq. 3-4, 8).

    Args:
        grid_px: Sides of the model's crops are multiples of this.
        focus_pixels: The model's own pixel budget of one crop, where `looks` names none.
    """
    mask = marking.mask.unpacked()
    margin_px = focus.margin_in_pixels(marking.mask.size, looks.margin, looks.margin_unit, paste.reach_px)
    crop = focus.plan_crop(mask, margin_px=margin_px, grid_px=grid_px, pixels=looks.focus_pixels or focus_pixels)
    marked = focus.crop_of(mask, crop.crop)  # all of M: C holds its tight box
    pasted = paste_mask(marked, marking.paste)
    within = None if marking.within is None else focus.crop_of(marking.within.unpacked(), crop.crop)
    return Place(crop, marked, pasted, blend_mask(pasted, paste, within))


def conditioning(
    rgb: U8Image,
    place: Place,
    *,
    prompt: str,
    seed: int,
    references: Sequence[tuple[str, U8Image]] = (),
    policy: ReferencePolicy = "as_given",
    accept_unverifiable: bool = False,
) -> Conditioning:
    """What the model is given for a region (Eq. 5-6).

    Args:
        rgb: The whole image, upright, `uint8 (H, W, 3)`.
        references: Name and pixels of each; as given, the model sees the first.
        policy: `registered`: the one that agrees best, in the view's frame, or none where none fits.
        accept_unverifiable: Take a registered one, too, that nothing left of the region confirms.
    """
    given = Conditioning(
        image=focus.view(rgb, place.crop),
        mask=focus.view_mask(place.marked, place.crop),
        support=focus.view_mask(place.support, place.crop),
        prompt=prompt,
        seed=seed,
        reference=references[0][1] if references else None,
    )
    if policy == "as_given" or not references:
        return given
    found = best_of(references, given.image, given.mask)
    verdict = found.agreement.verdict
    fits = verdict == "fits" or (verdict == "cannot tell" and accept_unverifiable)
    return replace(
        given,
        reference=found.pixels if fits else None,
        covered=found.covered if fits else None,
        agreement=found.agreement,
        given=given.reference,
    )
