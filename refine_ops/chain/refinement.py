"""An item between its inputs and its last region: focus -> register -> refine -> align -> paste -> judge."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from refine_ops.chain.turn import Trial, Turn, seed_of, seed_of_tile
from refine_ops.config import RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image import conditioning, focus, paste, place
from refine_ops.image.formats.native import F32
from refine_ops.image.patch import align
from refine_ops.image.patch.keep import keep_detail
from refine_ops.judge.evidence.change import agreement_of, change_thumbnail
from refine_ops.judge.evidence.measure import measure, region_reference
from refine_ops.judge.judge import Judge
from refine_ops.opened import Opened
from refine_ops.records import (
    Alignment,
    Conditioning,
    Evidence,
    Item,
    Mask,
    PastePolicy,
    Patch,
    Refiner,
    RegionOutcome,
    Ruling,
    U8Image,
)

Timed = Callable[[str], AbstractContextManager[object]]
"""Takes the time of a named step."""


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
        self.source, self.settings = opened.source, settings
        self._item, self._refiner, self._judge = item, refiner, judge
        self._markings, self._references = opened.markings, opened.references
        self.canvas = paste.Canvas.from_source(opened.source)
        self._outcomes: list[RegionOutcome] = []
        self._turn: Turn | None = None
        self._best: Trial | None = None
        self._held: dict[int, Trial] = {}
        self._shown: list[int] = []

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
        turn.seen = turn.mosaic.seen(tile, self.canvas.rgb)
        marked, support = (turn.mosaic.left_open(tile, part) for part in (turn.place.marked, turn.place.support))
        given = replace(
            conditioning.shown(turn.seen, tile, marked, support, prompt=turn.region.prompt, seed=seed_of_tile(turn)),
            candidate=turn.candidate,
        )
        if turn.fitted is None:
            turn.fitted = conditioning.fit(
                self.canvas.rgb,
                turn.place,
                given,
                [(uri, self._references[uri]) for uri in turn.region.all_references],
                self._refiner.reference,
                self.settings.model.accept_unverifiable,
            )
        turn.given.append(turn.fitted.to(given, tile))
        return turn.given[-1]

    def _begin(self) -> Turn:
        index = len(self._outcomes)
        region = self._item.regions[index]
        found = place.find(
            self._markings[index],
            self.settings.focus,
            self.settings.paste,
            grid_px=self._refiner.grid_px,
            focus_pixels=self._refiner.focus_pixels,
            tile_zoom=self.settings.focus.least_zoom(self._refiner.tile_zoom),
        )
        return Turn(region, found, seed_of(self._item, region))

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
        before = self.canvas.saved(turn.place.crop.crop)
        return self._ruled(turn, self._tried(turn, before.rgb, timed), before)

    def _ruled(self, turn: Turn, trial: Trial, before: paste.Saved | None) -> bool:
        """Leave the best candidate on the canvas if it is accepted, and go on with the next candidate or region."""
        best = self._best is None or trial.rank > self._best.rank
        if best:
            self._best = trial
        assert self._best is not None
        another = turn.candidate + 1 < self.settings.candidates and self._judge is not None
        another = another and (self.settings.stop == "best" or not trial.outcome.accepted)
        if before is not None and (another or not best or not trial.outcome.accepted):
            self.canvas.restore(before)
        if another:
            self._turn = turn.next_candidate(seed_of(self._item, turn.region, turn.candidate + 1))
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

    def _show(self, trial: Trial) -> None:
        assert trial.native is not None
        self.canvas.paste(trial.place.crop, trial.native, trial.place.blend)

    def _refuse_not_finite(self, patch: Patch) -> None:
        if self._judge is not None and not np.isfinite(patch.pixels).all():
            raise ItemError("judge.not_finite", "the model made values that are no numbers")

    def _unusable(self, turn: Turn, reason: str) -> Trial:
        turn.drifts.append(Alignment())
        evidence = Evidence(finite=reason not in ("judge.not_finite", "patch.not_finite"))
        return Trial(turn.place, None, turn.outcome(self.settings.paste.reach_px, 0.0, evidence, Ruling(False, reason)))

    def _tried(self, turn: Turn, before: U8Image, timed: Timed) -> Trial:
        """Paste what all tiles have made, and let the judge rule over what is there now."""
        found = turn.place
        window = focus.crop_of(self.canvas.rgb, found.crop.crop)  # a view: pasting shows in it
        trial = Trial(found, turn.mosaic.patch, turn.outcome(self.settings.paste.reach_px, 0.0))
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
            equal = self.settings.write.allow_unchanged and np.array_equal(before, window)
            ruling = Ruling(True) if equal else self._judge.rule(evidence, trial.outcome.made_by)
        return replace(trial, outcome=replace(trial.outcome, change=change, evidence=evidence, ruling=ruling))

    def _evidence(self, turn: Turn, before: U8Image, after: U8Image) -> Evidence:
        assert self._judge is not None
        reference, covered = region_reference(turn.given, turn.place) or (None, None)
        change = change_thumbnail(before, after, turn.place.pasted)
        evidence = measure(
            before,
            after,
            turn.place.pasted,
            reach_px=self.settings.paste.reach_px,
            zoom=turn.place.zoom,
            reference=reference,
            covered=covered,
            alignment=turn.drift,
            prompt=turn.region.prompt,
            reader=self._judge.reader,
        )
        agreement = agreement_of(change, turn.changes)
        turn.changes.append(change)
        return replace(evidence, candidates=agreement)

    def _native(self, turn: Turn, patch: Patch) -> tuple[F32, Alignment]:
        """A tile's patch on its crop at native resolution, and the drift that was undone."""
        crop, truth, settings = turn.tile.crop, turn.seen, self.settings.align
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

    def show_held(self) -> bool:
        """Paste what was held as well, from now on; returns whether there is any."""
        held, self._held = self._held, {}
        for index, trial in sorted(held.items()):
            self._show(trial)
            self._shown.append(index)
        return bool(held)

    def marked(self) -> Iterator[tuple[Mask, PastePolicy]]:
        """What is marked of every region on the canvas, and what is pasted of it."""
        shown = (self._markings[index] for index in self._shown)
        return ((marking.mask.unpacked(), marking.paste) for marking in shown)
