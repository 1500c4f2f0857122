"""One region's place in an image: where the model looks, in one tile or several, and how its answer is pasted back."""

from dataclasses import dataclass

import numpy as np

from refine_ops.config import CropGeometry, PasteSettings
from refine_ops.errors import ItemError
from refine_ops.image import focus
from refine_ops.image.paste import blend_mask
from refine_ops.image.patch.tiles import Tile, hull, plan_tiles, touching
from refine_ops.image.region import PackedMask, paste_mask
from refine_ops.image.source import Source, as_stored, upright
from refine_ops.records import Blend, Box, FocusCrop, Mask, PastePolicy


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

    `marked` is M; `pasted` is what is pasted back, M or the whole of its box; `blend` is Eq. 8 on that. `tiles` are the
    looks it takes, in turn; of one tile C is the crop, of several C holds all of theirs and `crop.size` is what each is
    seen at. `around` is the region with its margin, image px.
    """

    crop: FocusCrop
    marked: Mask
    pasted: Mask
    blend: Blend
    tiles: tuple[Tile, ...]
    around: Box

    @property
    def support(self) -> Mask:
        return self.blend > 0

    @property
    def zoom(self) -> float:
        """Model pixels per native pixel."""
        return focus.zoom_of(self.tiles[0].crop.crop, self.crop.size)


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


def find(
    marking: Marking,
    looks: CropGeometry,
    paste: PasteSettings,
    *,
    grid_px: int,
    focus_pixels: int,
    tile_zoom: float | None,
) -> Place:
    """The place of a region (Eq. 3-4, 8).

    Args:
        grid_px: Sides of the model's crops are multiples of this.
        focus_pixels: The model's own pixel budget of one crop, where `looks` names none.
        tile_zoom: A region that would be seen at less is split into tiles seen at this; None: it never is.
    """
    mask, pixels = marking.mask.unpacked(), looks.focus_pixels or focus_pixels
    margin_px = focus.margin_in_pixels(marking.mask.size, looks.margin, looks.margin_unit, paste.reach_px)
    crop = focus.plan_crop(mask, margin_px=margin_px, grid_px=grid_px, pixels=pixels)
    if tile_zoom is None or focus.zoom_of(crop.crop, crop.size) >= tile_zoom:
        return _placed(marking, mask, crop, paste, [Tile(crop, crop.crop)], crop.crop)
    box = focus.grown(crop.tight, paste.reach_px, marking.mask.size)
    tiles = plan_tiles(box, marking.mask.size, grid_px=grid_px, pixels=pixels, zoom=tile_zoom)
    whole = FocusCrop(crop.tight, hull(tiles), (0, 0, 0, 0), tiles[0].crop.size)
    return _placed(marking, mask, whole, paste, tiles, crop.crop)


def _placed(
    marking: Marking, mask: Mask, crop: FocusCrop, paste: PasteSettings, tiles: list[Tile], around: Box
) -> Place:
    marked = focus.crop_of(mask, crop.crop)  # all of M: C holds its tight box
    pasted = paste_mask(marked, marking.paste)
    within = None if marking.within is None else focus.crop_of(marking.within.unpacked(), crop.crop)
    blend = blend_mask(pasted, paste, within)
    return Place(crop, marked, pasted, blend, touching(tiles, crop.crop, blend > 0), around)
