"""One image, from its bytes to the bytes to publish: read -> focus -> refine -> align -> paste -> verify.

`Refinement` is the chain cut open where the model runs, so that a worker can batch the regions of many images;
`refine_image` is the same chain for one image at a time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from refine_ops.config import ImageLimits, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image import conditioning, focus, paste, place, read, write
from refine_ops.image.conditioning import Fitted
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.formats.native import F32, Format
from refine_ops.image.formats.table import header_pixels
from refine_ops.image.patch import align
from refine_ops.image.patch.keep import keep_detail
from refine_ops.image.patch.tiles import Mosaic, Tile
from refine_ops.image.place import Marking, Place
from refine_ops.image.reference import decode_reference
from refine_ops.image.region import region_mask
from refine_ops.image.source import Source
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules
from refine_ops.provenance import policy
from refine_ops.records import (
    Alignment,
    Conditioning,
    Item,
    MadeBy,
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


@dataclass(slots=True, eq=False)
class _Turn:
    """The region whose turn it is: its place, its reference, and what its tiles have made so far."""

    region: Region
    place: Place
    seed: int
    mosaic: Mosaic
    fitted: Fitted | None = None
    seen: U8Image | None = None
    ran: list[tuple[int, str, MadeBy]] = field(default_factory=list)
    drifts: list[Alignment] = field(default_factory=list)

    @property
    def tile(self) -> Tile:
        """The one that is next."""
        return self.place.tiles[len(self.drifts)]

    @property
    def complete(self) -> bool:
        return len(self.drifts) == len(self.place.tiles)


def seed_of(item: Item, region: Region) -> int:
    """The region's own seed, else one derived from the ids: never from rank, order or time. In [0, 2^63).

    After a rejection the item's salt goes into both.
    """
    if region.seed is not None and not item.salt:
        return region.seed
    return _derived([item.item_id, region.region_id] + ([str(region.seed), item.salt] if item.salt else []))


def _seed_of_tile(turn: _Turn) -> int:
    """The region's seed; of several tiles each has its own, from its place: equal noise would show as a pattern."""
    if len(turn.place.tiles) == 1:
        return turn.seed
    return _derived([str(turn.seed), ",".join(map(str, turn.tile.window))])


def _derived(parts: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") >> 1


def memory_needed(item: Item, inputs: Mapping[str, bytes], limits: ImageLimits) -> int:
    """Bytes an item will hold in flight, from its files' headers alone; larger images than allowed are not decoded."""
    pixels = min(header_pixels(inputs[item.image]), limits.max_pixels)
    references = min(sum(header_pixels(inputs[uri]) for uri in _references(item)), limits.max_pixels)
    return pixels * _BYTES_PER_PIXEL + references * 3 + sum(map(len, inputs.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An item's inputs, decoded and found to fit each other: the source, its regions' markings, references by URI."""

    source: Source
    markings: tuple[Marking, ...]
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
    policy.check(source, settings.provenance)
    markings = []
    for region in item.regions:
        mask = region_mask(region, source.size, inputs[region.mask] if region.mask else None, limits)
        markings.append(Marking.of(source, mask, region.paste, settings.paste))
    pixels = sum(header_pixels(inputs[uri]) for uri in uris)
    if pixels > limits.max_pixels:
        raise ItemError(
            "reference.too_large",
            f"{item.item_id}: its {len(uris)} references have {pixels:,} pixels together, over max_pixels "
            f"{limits.max_pixels:,}; make them smaller, the model sees them at its own size",
        )
    return Opened(
        source, tuple(markings), {uri: decode_reference(inputs[uri], name=uri, limits=limits) for uri in uris}
    )


def _references(item: Item) -> list[str]:
    return sorted({uri for r in item.regions for uri in r.all_references})


class Refinement:
    """One item between its inputs and its result. Regions take turns; later ones see what earlier ones left.

    A large region takes a turn per tile.

    while not refinement.complete:
        refinement.absorb(model(refinement.conditioning()))
    finished = refinement.verify(refinement.encode())
    """

    def __init__(self, item: Item, opened: Opened, settings: RefineSettings, refiner: Refiner) -> None:
        self._item, self._settings, self._refiner = item, settings, refiner
        self._source, self._markings, self._references = opened.source, opened.markings, opened.references
        self._canvas = paste.Canvas.from_source(self._source)
        self._outcomes: list[RegionOutcome] = []
        self._turn: _Turn | None = None

    @property
    def complete(self) -> bool:
        return len(self._outcomes) == len(self._item.regions)

    @property
    def turn(self) -> tuple[str, int]:
        """Id of the region whose turn it is, and its number of tiles."""
        assert self._turn is not None
        return self._turn.region.region_id, len(self._turn.place.tiles)

    def conditioning(self) -> Conditioning:
        """What the model is given for the next region, or its next tile (Eq. 3-6)."""
        turn = self._turn = self._turn or self._begin()
        tile = turn.tile
        turn.seen = turn.mosaic.seen(tile, self._canvas.rgb)
        marked, support = (turn.mosaic.left_open(tile, part) for part in (turn.place.marked, turn.place.support))
        given = conditioning.shown(
            turn.seen, tile, marked, support, prompt=turn.region.prompt, seed=_seed_of_tile(turn)
        )
        if turn.fitted is None:
            turn.fitted = conditioning.fit(
                self._canvas.rgb,
                turn.place,
                given,
                [(uri, self._references[uri]) for uri in turn.region.all_references],
                self._refiner.reference,
                self._settings.model.accept_unverifiable,
            )
        return turn.fitted.to(given, tile)

    def _begin(self) -> _Turn:
        index = len(self._outcomes)
        region = self._item.regions[index]
        found = place.find(
            self._markings[index],
            self._settings.focus,
            self._settings.paste,
            grid_px=self._refiner.grid_px,
            focus_pixels=self._refiner.focus_pixels,
            tile_zoom=self._settings.focus.least_zoom(self._refiner.tile_zoom),
        )
        mosaic = Mosaic(found.crop.crop, found.support, found.blend)
        return _Turn(region, found, seed_of(self._item, region), mosaic)

    def absorb(self, patch: Patch) -> None:
        """Undo the model's drift; where that was the region's last tile, paste what it has become (Eq. 8-9)."""
        turn = self._turn
        if turn is None or turn.seen is None:
            raise RuntimeError("absorb() before conditioning()")
        native, drift = self._native(turn, patch)
        turn.mosaic.add(turn.tile, native)
        turn.ran.append((patch.batch_size, patch.step_down, patch.made_by))
        turn.drifts.append(drift)
        turn.seen = None
        if turn.complete:
            self._paste(turn)
            self._turn = None

    def _native(self, turn: _Turn, patch: Patch) -> tuple[F32, Alignment]:
        """A tile's patch on its crop at native resolution, and the drift that was undone."""
        crop, truth, settings = turn.tile.crop, turn.seen, self._settings.align
        assert truth is not None
        support = turn.mosaic.left_open(turn.tile, turn.place.support)
        known = align.known_pixels(crop, support, patch.generated)
        correction = align.estimate(truth, patch.pixels, crop, known, settings)
        native = align.undo(patch.pixels, crop, correction)
        if settings.keep_levels and patch.roundtrip is not None:
            # What is undone in the patch is undone in the round trip too: equal pictures stay equal.
            own = align.NO_CORRECTION
            if correction.applies:
                own = align.estimate(truth, patch.roundtrip, crop, ~support, settings)
            back = align.undo(patch.roundtrip, crop, own)
            native = keep_detail(native, back, truth, crop, settings.keep_levels)
        return native, correction.alignment

    def _paste(self, turn: _Turn) -> None:
        window = focus.crop_of(self._canvas.rgb, turn.place.crop.crop)  # a view: pasting shows in it
        before = window[turn.place.pasted].astype(np.int16)
        self._canvas.paste(turn.place.crop, turn.mosaic.patch, turn.place.blend)
        change = float(np.abs(window[turn.place.pasted] - before).mean())
        self._outcomes.append(self._outcome(turn, change))

    def _outcome(self, turn: _Turn, change: float) -> RegionOutcome:
        crop, (batch_sizes, steps_down, makers) = turn.place.crop, zip(*turn.ran, strict=True)
        return RegionOutcome(
            region_id=turn.region.region_id,
            seed=turn.seed,
            tight=crop.tight,
            crop=crop.crop,
            model_width=crop.size[0],
            model_height=crop.size[1],
            support_px=int(np.count_nonzero(turn.place.blend)),
            reach_px=self._settings.paste.reach_px,
            change=change,
            batch_size=batch_sizes[-1],
            step_down="; then ".join(dict.fromkeys(steps_down)),
            alignment=max(turn.drifts, key=lambda drift: (drift.measured, drift.de00_before)),
            agreement=turn.fitted.agreement if turn.fitted else None,
            made_by="transfer" if set(makers) == {"transfer"} else "model",
            tiles=len(turn.ran),
        )

    def encode(self) -> Encoded:
        """The bytes to publish, in the file's own format unless the settings say otherwise."""
        confined = self._settings.paste.confine == "region"
        encoded = write.encode(self._source, self._canvas, self._settings.write, confined=confined)
        return policy.marked(encoded, self._source.name) if self._is_marked else encoded

    @property
    def _is_marked(self) -> bool:
        return policy.is_marked(self._source, self._canvas.samples, self._settings.provenance)

    def verify(self, encoded: Encoded) -> Finished:
        """Prove on those very bytes that nothing outside the allowed change differs.

        Raises:
            ItemError: a promise is broken; the bytes must not be published.
        """
        settings = self._settings.write
        regions = ((marking.mask.unpacked(), marking.paste) for marking in self._markings)
        proof = verify.verify(
            self._source,
            encoded.data,
            regions,
            Rules.of(self._settings.paste, settings),
            allow_unchanged=settings.allow_unchanged,
            marked=self._is_marked,
        )
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
    return refine_opened(item, open_item(item, inputs, settings), refiner, settings)


def refine_opened(item: Item, opened: Opened, refiner: Refiner, settings: RefineSettings) -> Finished:
    """`refine_image` for an item whose inputs are decoded."""
    refinement = Refinement(item, opened, settings, refiner)
    while not refinement.complete:
        work = refiner.prepare(refinement.conditioning())
        refinement.absorb(refiner.refine_prepared([work])[0])
    return refinement.verify(refinement.encode())
