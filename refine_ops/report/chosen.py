"""Which items the first screen shows: what waits for a person, what is flagged, what changed most, and typical ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from refine_ops.report.figures import FINDINGS, ItemMeasure, RegionMeasure

Group = Literal["held", "look", "most", "typical"]

MOST: Final[dict[Group, int]] = {"held": 6, "look": 6, "most": 4, "typical": 4}
"""Items of each group at most: their pictures are cut large, and their references registered again."""
_CHANGE: Final = "change_de00"


@dataclass(frozen=True, slots=True)
class Chosen:
    """One item of the first screen and the region of it to look at (empty: the whole picture)."""

    group: Group
    item: ItemMeasure
    region_id: str

    @property
    def region(self) -> RegionMeasure | None:
        """Its region's numbers."""
        return next((r for r in self.item.regions if r.region_id == self.region_id), None)


def choose(items: Sequence[ItemMeasure]) -> list[Chosen]:
    """At most 20 items, each once, in the order they are shown; equal measures give equal choices."""
    order = sorted((i for i in items if i.findings), key=rank)
    held = [i for i in order if i.status == "held"][: MOST["held"]]
    look = [i for i in order if i.status == "done"][: MOST["look"]]
    fine = [i for i in items if not i.findings and _CHANGE in i.metrics]
    fine.sort(key=lambda i: (-i.metrics[_CHANGE], i.run, i.item_id))
    # In a small run there is something for both groups, or for the typical one alone.
    most = fine[: min(MOST["most"], len(fine) // 2)]
    rest = fine[len(most) :]
    middle = float(np.median([i.metrics[_CHANGE] for i in fine])) if fine else 0.0
    typical = sorted(rest, key=lambda i: abs(i.metrics[_CHANGE] - middle))[: MOST["typical"]]
    groups: list[tuple[Group, list[ItemMeasure]]] = [
        ("held", held), ("look", look), ("most", most), ("typical", typical)
    ]  # fmt: skip
    return [Chosen(group, item, _region_of(item)) for group, members in groups for item in members]


def rank(item: ItemMeasure) -> tuple[float, str, str]:
    """Sort key of every list of items: worst first, then by run and id."""
    return -item.severity, item.run, item.item_id


def _region_of(item: ItemMeasure) -> str:
    """The region of the gravest finding that is about one; else the one that changed most."""
    known = {r.region_id for r in item.regions}
    graves = sorted((f for f in item.findings if f.region_id in known), key=lambda f: -FINDINGS[f.code].weight)
    if graves:
        return graves[0].region_id
    if not item.regions:
        return ""
    return max(item.regions, key=lambda r: r.metrics.get(_CHANGE, 0.0)).region_id
