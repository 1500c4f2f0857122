"""A region's turn: its candidates, their seeds, and what each of them became."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from refine_ops.image.conditioning import Fitted
from refine_ops.image.formats.native import F32
from refine_ops.image.patch.tiles import Mosaic, Tile
from refine_ops.image.place import Place
from refine_ops.records import (
    Alignment,
    Conditioning,
    Evidence,
    Item,
    MadeBy,
    Region,
    RegionOutcome,
    Ruling,
    U8Image,
)


@dataclass(slots=True, eq=False)
class Turn:
    """A candidate of the region whose turn it is: its place, its reference, and what its tiles have made so far."""

    region: Region
    place: Place
    seed: int
    candidate: int = 0
    fitted: Fitted | None = None
    mosaic: Mosaic = field(init=False)
    given: list[Conditioning] = field(default_factory=list)
    seen: U8Image | None = None
    ran: list[tuple[int, str, MadeBy]] = field(default_factory=list)
    drifts: list[Alignment] = field(default_factory=list)
    changes: list[F32] = field(default_factory=list)
    """What each candidate so far has changed, in small; the turns of one region share it."""

    def __post_init__(self) -> None:
        self.mosaic = Mosaic(self.place.crop.crop, self.place.support, self.place.blend)

    @property
    def tile(self) -> Tile:
        """The one that is next."""
        return self.place.tiles[len(self.drifts)]

    @property
    def complete(self) -> bool:
        return len(self.drifts) == len(self.place.tiles)

    @property
    def drift(self) -> Alignment:
        """Of its tiles' drifts that by which the colour was off most."""
        return max(self.drifts, key=lambda drift: (drift.measured, drift.de00_before))

    def next_candidate(self, seed: int) -> "Turn":
        """The same once more, with another seed; the reference is not sought again."""
        return Turn(self.region, self.place, seed, self.candidate + 1, self.fitted, changes=self.changes)

    def outcome(
        self, reach_px: int, change: float, evidence: Evidence | None = None, ruling: Ruling | None = None
    ) -> RegionOutcome:
        """What is told of this candidate."""
        crop, (batch_sizes, steps_down, makers) = self.place.crop, zip(*self.ran, strict=True)
        return RegionOutcome(
            region_id=self.region.region_id,
            seed=self.seed,
            tight=crop.tight,
            crop=crop.crop,
            model_width=crop.size[0],
            model_height=crop.size[1],
            support_px=int(np.count_nonzero(self.place.blend)),
            reach_px=reach_px,
            change=change,
            batch_size=batch_sizes[-1],
            step_down="; then ".join(dict.fromkeys(steps_down)),
            alignment=self.drift,
            agreement=self.fitted.agreement if self.fitted else None,
            made_by="transfer" if set(makers) == {"transfer"} else "model",
            tiles=len(self.place.tiles),
            evidence=evidence,
            ruling=ruling,
            taken=self.candidate,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
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


def seed_of_tile(turn: Turn) -> int:
    """The region's seed; of several tiles each has its own, from its place: equal noise would show as a pattern."""
    if len(turn.place.tiles) == 1:
        return turn.seed
    return _derived([str(turn.seed), ",".join(map(str, turn.tile.window))])


def _derived(parts: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") >> 1
