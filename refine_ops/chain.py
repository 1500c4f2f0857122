"""One image, from its bytes to the bytes to publish: read -> focus -> refine -> align -> paste -> verify.

`Refinement` is the chain cut open where the model runs, so that a worker can batch the regions of many images;
`refine_image` is the same chain for one image at a time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refine_ops.config import ImageLimits, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image import align, focus, paste, read, region, write
from refine_ops.image.header import header_pixels
from refine_ops.image.source import Format, Source
from refine_ops.proof import verify
from refine_ops.records import (
    Alignment,
    Blend,
    Conditioning,
    FocusCrop,
    Item,
    Mask,
    Patch,
    Refiner,
    Region,
    RegionOutcome,
    U8Image,
    Verification,
)

_BYTES_PER_PIXEL = 24
"""What one item holds per pixel while in flight: samples, edited samples, sRGB view, masks, and slack for 16 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """An item ready to publish: bytes, proof, and what was done. `change_mask` is a PNG, if asked for."""

    data: bytes
    format: Format
    source_format: Format
    width: int
    height: int
    regions: tuple[RegionOutcome, ...]
    verification: Verification
    change_mask: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """The region whose turn it is: where the model looks and where its patch will go."""

    region: Region
    crop: FocusCrop
    mask: Mask
    blend: Blend
    conditioning: Conditioning


def seed_of(item: Item, region: Region) -> int:
    """The region's own seed, else one derived from the ids: never from rank, order or time. In [0, 2^63).

    After a rejection the item's salt goes into both.
    """
    if region.seed is not None and not item.salt:
        return region.seed
    parts = [item.item_id, region.region_id] + ([str(region.seed), item.salt] if item.salt else [])
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def memory_needed(item: Item, inputs: Mapping[str, bytes], limits: ImageLimits) -> int:
    """Bytes an item will hold in flight, from its files' headers alone; larger images than allowed are not decoded."""
    pixels = min(header_pixels(inputs[item.image]), limits.max_pixels)
    references = min(sum(header_pixels(inputs[uri]) for uri in _references(item)), limits.max_pixels)
    return pixels * _BYTES_PER_PIXEL + references * 3 + sum(map(len, inputs.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An item's inputs, decoded and found to fit each other: the source, one mask per region, references by URI."""

    source: Source
    masks: tuple[region.PackedMask, ...]
    references: dict[str, U8Image]


def open_item(item: Item, inputs: Mapping[str, bytes], settings: RefineSettings) -> Opened:
    """Decode everything an item names.

    Args:
        inputs: Bytes of the image, the masks and the references by URI.

    Raises:
        ItemError: an input is not what it should be; `region.below_mcu` where `confine: region` leaves a JPEG's region
            nothing that may change; `reference.too_large` where an item's references together have
            more pixels than one image may have.
    """
    limits, uris = settings.limits, _references(item)
    source = read.decode(inputs[item.image], name=item.image, limits=limits, matte=settings.write.matte)
    masks = tuple(
        region.PackedMask.of(region.region_mask(r, source.size, inputs[r.mask] if r.mask else None, limits))
        for r in item.regions
    )
    if settings.paste.confine == "region":
        for r, mask in zip(item.regions, masks, strict=True):
            paste.permitted(source, region.paste_mask(mask.unpacked(), r.paste))
    pixels = sum(header_pixels(inputs[uri]) for uri in uris)
    if pixels > limits.max_pixels:
        raise ItemError(
            "reference.too_large",
            f"{item.item_id}: its {len(uris)} references have {pixels:,} pixels together, over max_pixels "
            f"{limits.max_pixels:,}; make them smaller, the model sees them at its own size",
        )
    return Opened(source, masks, {uri: read.decode_reference(inputs[uri], name=uri, limits=limits) for uri in uris})


def _references(item: Item) -> list[str]:
    return sorted({r.reference for r in item.regions if r.reference})


class Refinement:
    """One item between its inputs and its result. Regions take turns; later ones see what earlier ones left.

    while not refinement.complete:
        refinement.absorb(model(refinement.conditioning()))
    finished = refinement.verify(refinement.encode())
    """

    def __init__(self, item: Item, opened: Opened, settings: RefineSettings, refiner: Refiner) -> None:
        self._item, self._settings, self._refiner = item, settings, refiner
        self._source, self._masks, self._references = opened.source, opened.masks, opened.references
        self._canvas = paste.Canvas.from_source(self._source)
        self._outcomes: list[RegionOutcome] = []
        self._turn: _Turn | None = None

    @property
    def complete(self) -> bool:
        return len(self._outcomes) == len(self._item.regions)

    def conditioning(self) -> Conditioning:
        """What the model is given for the next region (Eq. 3-6)."""
        index = len(self._outcomes)
        region_, mask = self._item.regions[index], self._masks[index].unpacked()
        crop = self._crop(mask)
        pasted = region.paste_mask(mask, region_.paste)
        blend = self._blend(pasted, crop)
        support = np.zeros_like(mask)
        focus.crop_of(support, crop.crop)[:] = blend > 0
        conditioning = Conditioning(
            image=focus.view(self._canvas.rgb, crop),
            mask=focus.view_mask(mask, crop),
            support=focus.view_mask(support, crop),
            prompt=region_.prompt,
            seed=seed_of(self._item, region_),
            reference=None if region_.reference is None else self._references[region_.reference],
        )
        self._turn = _Turn(region_, crop, focus.crop_of(pasted, crop.crop), blend, conditioning)
        return conditioning

    def _crop(self, mask: Mask) -> FocusCrop:
        settings = self._settings.focus
        reach = 0 if self._settings.paste.confine == "region" else self._settings.paste.reach_px
        return focus.plan_crop(
            mask,
            margin_px=focus.margin_in_pixels(self._source.size, settings.margin, settings.margin_unit, reach),
            grid_px=self._refiner.grid_px,
            pixels=settings.focus_pixels or self._refiner.focus_pixels,
        )

    def _blend(self, pasted: Mask, crop: FocusCrop) -> Blend:
        settings = self._settings.paste
        within = None
        if settings.confine == "region":
            within = focus.crop_of(paste.permitted(self._source, pasted), crop.crop)
        return paste.blend_mask(
            focus.crop_of(pasted, crop.crop),
            dilate_px=settings.dilate_px,
            blur_px=settings.blur_px,
            policy=settings.blend,
            within=within,
        )

    def absorb(self, patch: Patch) -> None:
        """Undo the model's drift and paste the patch back (Eq. 8-9)."""
        turn = self._turn
        if turn is None:
            raise RuntimeError("absorb() before conditioning()")
        window = focus.crop_of(self._canvas.rgb, turn.crop.crop)
        known = align.known_pixels(turn.crop, turn.blend > 0, patch.generated)
        correction = align.estimate(window, patch.pixels, turn.crop, known, self._settings.align)
        before = window[turn.mask].astype(np.int16)
        self._canvas.paste(turn.crop, align.undo(patch.pixels, turn.crop, correction), turn.blend)
        change = float(np.abs(window[turn.mask] - before).mean())
        self._outcomes.append(self._outcome(turn, patch, correction.alignment, change))
        self._turn = None

    def _outcome(self, turn: _Turn, patch: Patch, drift: Alignment, change: float) -> RegionOutcome:
        return RegionOutcome(
            region_id=turn.region.region_id,
            seed=turn.conditioning.seed,
            tight=turn.crop.tight,
            crop=turn.crop.crop,
            model_width=turn.crop.size[0],
            model_height=turn.crop.size[1],
            support_px=int(np.count_nonzero(turn.blend)),
            reach_px=self._settings.paste.reach_px,
            change=change,
            batch_size=patch.batch_size,
            step_down=patch.step_down,
            alignment=drift,
        )

    def encode(self) -> write.Encoded:
        """The bytes to publish, in the file's own format unless the settings say otherwise."""
        confined = self._settings.paste.confine == "region"
        return write.encode(self._source, self._canvas, self._settings.write, confined=confined)

    def verify(self, encoded: write.Encoded) -> Finished:
        """Prove on those very bytes that nothing outside the allowed change differs.

        Raises:
            ItemError: a promise is broken; the bytes must not be published.
        """
        settings = self._settings.write
        proof = verify.verify(self._source, encoded, allow_unchanged=settings.allow_unchanged)
        return Finished(
            data=encoded.data,
            format=encoded.format,
            source_format=self._source.format,
            width=self._source.width,
            height=self._source.height,
            regions=tuple(self._outcomes),
            verification=proof,
            change_mask=write.change_mask(self._canvas) if settings.save_change_mask else None,
        )


def refine_image(item: Item, inputs: Mapping[str, bytes], refiner: Refiner, settings: RefineSettings) -> Finished:
    """The whole chain for one image, one region at a time.

    Raises:
        ItemError: the item cannot be refined; nothing should be published.
    """
    refinement = Refinement(item, open_item(item, inputs, settings), settings, refiner)
    while not refinement.complete:
        work = refiner.prepare(refinement.conditioning())
        refinement.absorb(refiner.refine_prepared([work])[0])
    return refinement.verify(refinement.encode())
