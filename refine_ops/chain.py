"""One image, from its bytes to the bytes to publish: read -> focus -> refine -> align -> paste -> judge -> verify.

`Refinement` is the chain cut open where the model runs, so that a worker can batch the regions of many images;
`refine_image` is the same chain for one image at a time, unjudged.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from refine_ops.config import RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image import conditioning, focus, paste, place, write
from refine_ops.image.conditioning import Fitted
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.formats.native import F32, Format
from refine_ops.image.patch import align
from refine_ops.image.patch.keep import keep_detail
from refine_ops.image.patch.tiles import Mosaic, Tile
from refine_ops.image.place import Place
from refine_ops.image.source import Source
from refine_ops.judge.evidence.measure import measure, region_reference
from refine_ops.judge.judge import Judge
from refine_ops.opened import Opened, open_item
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules
from refine_ops.provenance import policy
from refine_ops.records import (
    Alignment,
    Conditioning,
    Evidence,
    Item,
    MadeBy,
    Mask,
    PastePolicy,
    Patch,
    Refiner,
    Region,
    RegionOutcome,
    Ruling,
    U8Image,
    Verification,
)

Timed = Callable[[str], AbstractContextManager[object]]
"""Takes the time of a named step."""


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
class Judged:
    """An item after its judge. `published` holds what was accepted, None where that is nothing; `candidate` holds
    everything, where a region was held and its pixels differ from the source's."""

    published: Finished | None
    candidate: Finished | None
    regions: tuple[RegionOutcome, ...]


@dataclass(slots=True, eq=False)
class _Turn:
    """A candidate of the region whose turn it is: its place, its reference, and what its tiles have made so far."""

    region: Region
    place: Place
    seed: int
    mosaic: Mosaic
    candidate: int = 0
    fitted: Fitted | None = None
    given: list[Conditioning] = field(default_factory=list)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A candidate that was made: its pixels on C at native resolution, None where they cannot be pasted."""

    place: Place
    native: F32 | None
    outcome: RegionOutcome

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Accepted ones before others, what can be shown before what cannot, then by score."""
        ruling = self.outcome.ruling
        score = ruling.score if ruling is not None and ruling.score is not None else 0.0
        return self.outcome.accepted, self.native is not None, score


def seed_of(item: Item, region: Region, candidate: int = 0) -> int:
    """The region's own seed, else one derived from the ids: never from rank, order or time. In [0, 2^63).

    After a rejection the item's salt goes into both; so does the number of a further candidate.
    """
    if region.seed is not None and not item.salt and not candidate:
        return region.seed
    parts = [item.item_id, region.region_id] + ([str(region.seed), item.salt] if item.salt or candidate else [])
    return _derived(parts + ([f"candidate {candidate}"] if candidate else []))


def _seed_of_tile(turn: _Turn) -> int:
    """The region's seed; of several tiles each has its own, from its place: equal noise would show as a pattern."""
    if len(turn.place.tiles) == 1:
        return turn.seed
    return _derived([str(turn.seed), ",".join(map(str, turn.tile.window))])


def _derived(parts: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") >> 1


class Refinement:
    """One item between its inputs and its result. Regions take turns; later ones see what earlier ones left.

    A large region takes a turn per tile.

    while not refinement.complete:
        refinement.absorb(model(refinement.conditioning()))
    judged = finish(refinement)

    Without a judge everything is accepted. With one, a region is pasted on trial, and taken off again unless its
    evidence is accepted; as long as that is so it has further turns, one per candidate.
    """

    def __init__(
        self, item: Item, opened: Opened, settings: RefineSettings, refiner: Refiner, judge: Judge | None = None
    ) -> None:
        self._item, self._settings, self._refiner, self._judge = item, settings, refiner, judge
        self._source, self._markings, self._references = opened.source, opened.markings, opened.references
        self._canvas = paste.Canvas.from_source(self._source)
        self._outcomes: list[RegionOutcome] = []
        self._turn: _Turn | None = None
        self._best: _Trial | None = None
        self._held: dict[int, _Trial] = {}
        self._shown: list[int] = []

    @property
    def source(self) -> Source:
        return self._source

    @property
    def regions(self) -> tuple[RegionOutcome, ...]:
        """What became of the regions that had their turn."""
        return tuple(self._outcomes)

    @property
    def complete(self) -> bool:
        return len(self._outcomes) == len(self._item.regions)

    @property
    def turn(self) -> tuple[str, int]:
        """Id of the region whose turn it is, and its number of tiles."""
        assert self._turn is not None
        return self._turn.region.region_id, len(self._turn.place.tiles)

    @property
    def view_shape(self) -> tuple[int, int]:
        """Height and width of what the model was given last."""
        assert self._turn is not None
        height, width = self._turn.given[-1].image.shape[:2]
        return height, width

    def conditioning(self) -> Conditioning:
        """What the model is given for the next region, its next tile, or its next candidate (Eq. 3-6)."""
        turn = self._turn = self._turn or self._begin()
        tile = turn.tile
        turn.seen = turn.mosaic.seen(tile, self._canvas.rgb)
        marked, support = (turn.mosaic.left_open(tile, part) for part in (turn.place.marked, turn.place.support))
        given = replace(
            conditioning.shown(turn.seen, tile, marked, support, prompt=turn.region.prompt, seed=_seed_of_tile(turn)),
            candidate=turn.candidate,
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
        turn.given.append(turn.fitted.to(given, tile))
        return turn.given[-1]

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
        return _Turn(region, found, seed_of(self._item, region), _mosaic(found))

    def _next_candidate(self, turn: _Turn) -> _Turn:
        """The same once more, with another seed; the reference is not sought again."""
        number = turn.candidate + 1
        seed = seed_of(self._item, turn.region, number)
        return _Turn(turn.region, turn.place, seed, _mosaic(turn.place), number, turn.fitted)

    def absorb(self, patch: Patch, timed: Timed = nullcontext) -> bool:
        """Undo the model's drift; where that was the region's last tile, paste what it has become (Eq. 8-9), and let
        the judge rule over it.

        Returns:
            Whether the candidate it belongs to is complete, and the best of its region so far.
        """
        turn = self._turn
        if turn is None or turn.seen is None:
            raise RuntimeError("absorb() before conditioning()")
        turn.ran.append((patch.batch_size, patch.step_down, patch.made_by))
        try:
            with timed("paste"):
                self._refuse_not_finite(patch)
                native, drift = self._native(turn, patch)
                turn.mosaic.add(turn.tile, native)
        except ItemError as e:
            if self._judge is None:
                raise
            return self._ruled(turn, self._unusable(turn, e.reason), None)
        turn.drifts.append(drift)
        turn.seen = None
        if not turn.complete:
            return False
        before = self._canvas.saved(turn.place.crop.crop)
        return self._ruled(turn, self._tried(turn, before.rgb, timed), before)

    def _ruled(self, turn: _Turn, trial: _Trial, before: paste.Saved | None) -> bool:
        """Leave the best candidate on the canvas if it is accepted, and go on with the next candidate or region."""
        best = self._best is None or trial.rank > self._best.rank
        if best:
            self._best = trial
        assert self._best is not None
        another = turn.candidate + 1 < self._settings.candidates and self._judge is not None
        another = another and (self._settings.stop == "best" or not trial.outcome.accepted)
        if before is not None and (another or not best or not trial.outcome.accepted):
            self._canvas.restore(before)
        if another:
            self._turn = self._next_candidate(turn)
            return best
        if not best and self._best.outcome.accepted:
            self._show(self._best)
        index = len(self._outcomes)
        if self._best.outcome.accepted:
            self._shown.append(index)
        elif self._best.native is not None:
            self._held[index] = self._best
        self._outcomes.append(replace(self._best.outcome, candidates=turn.candidate + 1))
        self._turn = self._best = None
        return best

    def _show(self, trial: _Trial) -> None:
        assert trial.native is not None
        self._canvas.paste(trial.place.crop, trial.native, trial.place.blend)

    def _refuse_not_finite(self, patch: Patch) -> None:
        if self._judge is not None and not np.isfinite(patch.pixels).all():
            raise ItemError("judge.not_finite", "the model made values that are no numbers")

    def _unusable(self, turn: _Turn, reason: str) -> _Trial:
        turn.drifts.append(Alignment())
        evidence = Evidence(finite=reason not in ("judge.not_finite", "patch.not_finite"))
        return _Trial(turn.place, None, self._outcome(turn, 0.0, evidence, Ruling(False, reason)))

    def _tried(self, turn: _Turn, before: U8Image, timed: Timed) -> _Trial:
        """Paste what all tiles have made, and let the judge rule over what is there now."""
        found = turn.place
        window = focus.crop_of(self._canvas.rgb, found.crop.crop)  # a view: pasting shows in it
        trial = _Trial(found, turn.mosaic.patch, self._outcome(turn, 0.0))
        try:
            with timed("paste"):
                self._show(trial)
        except ItemError as e:
            if self._judge is None:
                raise
            return self._unusable(turn, e.reason)
        change = float(np.abs(window[found.pasted].astype(np.int16) - before[found.pasted]).mean())
        if self._judge is None:
            return replace(trial, outcome=replace(trial.outcome, change=change))
        with timed("judge"):
            evidence = self._evidence(turn, before, window)
            equal = self._settings.write.allow_unchanged and np.array_equal(before, window)
            ruling = Ruling(True) if equal else self._judge.rule(evidence, trial.outcome.made_by)
        return replace(trial, outcome=replace(trial.outcome, change=change, evidence=evidence, ruling=ruling))

    def _evidence(self, turn: _Turn, before: U8Image, after: U8Image) -> Evidence:
        assert self._judge is not None
        reference, covered = region_reference(turn.given, turn.place) or (None, None)
        return measure(
            before,
            after,
            turn.place.pasted,
            reach_px=self._settings.paste.reach_px,
            zoom=turn.place.zoom,
            reference=reference,
            covered=covered,
            alignment=_worst(turn),
            prompt=turn.region.prompt,
            reader=self._judge.reader,
        )

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

    def _outcome(
        self, turn: _Turn, change: float, evidence: Evidence | None = None, ruling: Ruling | None = None
    ) -> RegionOutcome:
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
            alignment=_worst(turn),
            agreement=turn.fitted.agreement if turn.fitted else None,
            made_by="transfer" if set(makers) == {"transfer"} else "model",
            tiles=len(turn.place.tiles),
            evidence=evidence,
            ruling=ruling,
            taken=turn.candidate,
        )

    def show_held(self) -> bool:
        """Paste what was held as well, from now on; returns whether there is any."""
        held, self._held = self._held, {}
        for index, trial in sorted(held.items()):
            self._show(trial)
            self._shown.append(index)
        return bool(held)

    def encode(self) -> Encoded:
        """The canvas as bytes, in the file's own format unless the settings say otherwise."""
        confined = self._settings.paste.confine == "region"
        encoded = write.encode(self._source, self._canvas, self._settings.write, confined=confined)
        return policy.marked(encoded, self._source.name) if self._is_marked else encoded

    @property
    def _is_marked(self) -> bool:
        return policy.is_marked(self._source, self._canvas.samples, self._settings.provenance)

    def verify(self, encoded: Encoded, *, allow_unchanged: bool | None = None) -> Finished:
        """Prove on those very bytes that nothing differs outside the allowed change of the regions on the canvas.

        Args:
            allow_unchanged: As the settings say if None.

        Raises:
            ItemError: a promise is broken; the bytes must not be published.
        """
        settings, samples = self._settings, self._canvas.samples
        rules = Rules.of(settings.paste, settings.write)
        prove = partial(
            verify.verify,
            self._source,
            rules=rules,
            allow_unchanged=settings.write.allow_unchanged if allow_unchanged is None else allow_unchanged,
            marked=self._is_marked,
        )
        data, proof = encoded.data, prove(encoded.data, self._marked())
        if policy.is_signed(self._source, samples, settings.provenance):
            data = policy.signed(encoded, self._source, samples, self._marked(), rules, settings.model)
            proof = policy.read_again(data, self._source.name, prove(data, self._marked(), signed=True))
        return Finished(
            data=data,
            format=encoded.format,
            source_format=self._source.format,
            width=self._source.width,
            height=self._source.height,
            regions=self.regions,
            verification=proof,
            change_mask=write.change_mask(self._canvas) if settings.write.save_change_mask else None,
        )

    def _marked(self) -> Iterator[tuple[Mask, PastePolicy]]:
        """What is marked of every region on the canvas, and what is pasted of it."""
        shown = (self._markings[index] for index in self._shown)
        return ((marking.mask.unpacked(), marking.paste) for marking in shown)


def _mosaic(found: Place) -> Mosaic:
    return Mosaic(found.crop.crop, found.support, found.blend)


def _worst(turn: _Turn) -> Alignment:
    """Of its tiles' drifts that by which the colour was off most."""
    return max(turn.drifts, key=lambda drift: (drift.measured, drift.de00_before))


def finish(refinement: Refinement, timed: Timed = nullcontext) -> Judged:
    """Encode and verify what was accepted, and where something was held, a file with all of it.

    Raises:
        ItemError: a promise is broken; the bytes must not be published.
    """
    published = candidate = None
    if any(region.accepted for region in refinement.regions):
        published = _finished(refinement, timed)
    if refinement.show_held():
        shown = _finished(refinement, timed, allow_unchanged=True)
        candidate = shown if shown.verification.changed_px else None
    return Judged(published, candidate, refinement.regions)


def _finished(refinement: Refinement, timed: Timed, *, allow_unchanged: bool | None = None) -> Finished:
    with timed("encode"):
        encoded = refinement.encode()
    with timed("verify"):
        return refinement.verify(encoded, allow_unchanged=allow_unchanged)


def refine_image(item: Item, inputs: Mapping[str, bytes], refiner: Refiner, settings: RefineSettings) -> Finished:
    """The whole chain for one image, one region at a time; whatever comes is accepted.

    Raises:
        ItemError: the item cannot be refined; nothing should be published.
    """
    published = refine_opened(item, open_item(item, inputs, settings), refiner, settings).published
    assert published is not None, "nobody judged"
    return published


def refine_opened(
    item: Item, opened: Opened, refiner: Refiner, settings: RefineSettings, judge: Judge | None = None
) -> Judged:
    """The chain for an image whose inputs are decoded."""
    refinement = Refinement(item, opened, settings, refiner, judge)
    while not refinement.complete:
        work = refiner.prepare(refinement.conditioning())
        refinement.absorb(refiner.refine_prepared([work])[0])
    return finish(refinement)
