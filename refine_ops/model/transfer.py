"""A refiner without a network: the registered reference itself, in the photo's tone, sharpness and grain.

Registration has done the work by the time a region comes here (`image/registration`): the reference lies in the
view's frame, its tone matched and its detail not above the photo's own. What is missing is the photo's grain. Needs no
torch, no weights and no GPU; a region without a fitting reference is refused with the numbers.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.errors import ItemError
from refine_ops.model.presets import PRESETS, TRANSFER
from refine_ops.records import Conditioning, F32Image, Mask, Patch, ReferencePolicy, U8Image

_TILE_PX: Final = 16
_QUIETEST: Final = 0.3
"""Share of the photo's tiles whose grain is looked at: those with the least structure."""
_LEAST_TILES: Final = 4
_GRAIN_PX: Final = 1.5
"""What is finer than this is grain where nothing else is."""


@dataclass(frozen=True, slots=True, eq=False)
class TransferWork:
    """A region whose reference fits."""

    item: Conditioning

    @property
    def bucket(self) -> Hashable:
        return BUCKET


BUCKET: Final = "transfer"
"""The bucket of all transfers."""


class TransferRefiner:
    """Implements `Refiner`; safe in several threads."""

    grid_px: int = PRESETS[TRANSFER].grid_px
    focus_pixels: int = PRESETS[TRANSFER].focus_pixels
    reference: ReferencePolicy = "registered"
    tile_zoom: float = PRESETS[TRANSFER].tile_zoom

    def batch_size(self, bucket: Hashable) -> int:
        """One: nothing is gained by company."""
        return 1

    def prepare(self, item: Conditioning) -> TransferWork:
        """
        Raises:
            ItemError: `reference.unfit`, with the numbers.
        """
        if item.reference is None:
            raise ItemError("reference.unfit", unfit(item))
        return TransferWork(item)

    def refine_prepared(self, batch: Sequence[TransferWork]) -> list[Patch]:
        """The reference where it will be pasted and reaches, the view itself elsewhere."""
        return [transfer(work.item) for work in batch]


def transfer(item: Conditioning) -> Patch:
    """One region whose `reference` is registered: `uint8 (h, w, 3)` on the view."""
    assert item.reference is not None
    laid = item.support if item.covered is None else item.support & item.covered
    grained = with_grain(item.reference, item.image, ~item.support, item.seed)
    pixels = np.where(laid[..., None], grained, item.image.astype(np.float32)).astype(np.float32) / np.float32(255)
    # Nothing is generated where the view is put back: there is no drift to look for.
    return Patch(pixels=pixels, generated=laid, batch_size=1, made_by="transfer")


def unfit(item: Conditioning) -> str:
    """Why a region has nothing to be transferred, with what was measured."""
    found = item.agreement
    if found is None:
        return "the region has no reference; give one, or use a model that needs none"
    return (
        f"no reference fits, {found.verdict}: {found.reason} (method {found.method}, agreement {found.rank:.2f}, "
        f"inside {found.inside:.2f}, covered {found.covered:.0%}); give another reference or a model"
    )


def with_grain(pixels: U8Image, photo: U8Image, known: Mask, seed: int) -> F32Image:
    """`pixels` with as much fine noise as the photo shows in its quiet parts, `float32 (h, w, 3)`, in levels of 255.

    Tiles of the photo's own noise are laid in an order drawn from the seed, so it has the photo's spectrum, whatever
    the view's zoom; only what the pixels lack is added.
    """
    plain = pixels.astype(np.float32)
    noise, place = _fine(photo), _quiet(photo, known)
    if len(place) < _LEAST_TILES:
        return plain
    tiles = np.stack([noise[y : y + _TILE_PX, x : x + _TILE_PX] for y, x in place])
    tiles -= tiles.mean(axis=(1, 2), keepdims=True)
    there, own = float(tiles.std()), _own_noise(pixels)
    if there <= own or there == 0:
        return plain
    rows, columns = (-(-side // _TILE_PX) for side in pixels.shape[:2])
    chosen = np.random.default_rng(seed).integers(len(tiles), size=(rows, columns))
    sheet = tiles[chosen].transpose(0, 2, 1, 3, 4).reshape(rows * _TILE_PX, columns * _TILE_PX, 3)
    missing = np.sqrt(1 - (own / there) ** 2)
    grained: F32Image = np.clip(plain + missing * sheet[: pixels.shape[0], : pixels.shape[1]], 0, 255).astype(
        np.float32
    )
    return grained


def _fine(image: U8Image) -> F32Image:
    plain = image.astype(np.float32)
    return np.asarray(plain - cv2.GaussianBlur(plain, (0, 0), _GRAIN_PX), np.float32)


def _quiet(image: U8Image, known: Mask) -> list[tuple[int, int]]:
    """Corners (y, x) of the known tiles that show the least structure."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2 * _GRAIN_PX)
    structure: list[tuple[float, int, int]] = []
    for y in range(0, image.shape[0] - _TILE_PX + 1, _TILE_PX):
        for x in range(0, image.shape[1] - _TILE_PX + 1, _TILE_PX):
            part = np.s_[y : y + _TILE_PX, x : x + _TILE_PX]
            if known[part].all():
                structure.append((float(smooth[part].std(axis=(0, 1)).max()), y, x))
    structure.sort()
    return [(y, x) for _, y, x in structure[: max(_LEAST_TILES, round(_QUIETEST * len(structure)))]]


def _own_noise(pixels: U8Image) -> float:
    """The fine noise of the pixels' own quiet parts."""
    fine = _fine(pixels)
    quiet = _quiet(pixels, np.ones(pixels.shape[:2], np.bool_))
    return float(np.mean([fine[y : y + _TILE_PX, x : x + _TILE_PX].std() for y, x in quiet])) if quiet else 0.0
