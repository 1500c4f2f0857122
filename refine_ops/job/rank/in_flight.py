"""One item on its way through a rank: its attempt, its refinement, and what it holds meanwhile."""

from dataclasses import dataclass, field
from typing import Any

from refine_ops.chain import Refinement
from refine_ops.job.outcome import Attempt
from refine_ops.records import Item, Patch


@dataclass(slots=True)
class Flight:
    """Mutable state of one item between being taken and its outcome.

    `prepared` is what the refiner made ready for the region whose turn it is; `patches` of regions of one tile (their
    best candidate's) are kept by region id where the run asks for them; `held_bytes` is its share of the byte budget.
    """

    position: int
    attempt: Attempt
    refinement: Refinement | None = None
    prepared: Any = None
    patches: dict[str, Patch] = field(default_factory=dict)
    held_bytes: int = 0
    waiting_since: float = 0.0

    @property
    def item(self) -> Item:
        return self.attempt.item

    def land(self) -> int:
        """Let go of everything large; returns the bytes that were held."""
        held, self.held_bytes = self.held_bytes, 0
        self.refinement = self.prepared = None
        self.patches.clear()
        return held
