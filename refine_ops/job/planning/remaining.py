"""What of a plan is still to be done: the plan compared with the ledger, and with the stores where asked."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from refine_ops import storage
from refine_ops.job.inputs import identity_of, input_uris
from refine_ops.job.planning.known import UNKNOWN, Hashes, Known, hashes_of
from refine_ops.job.planning.plan import PlanReader

_LOOKED_UP: Final = 1 << 17
"""Items whose inputs are looked up together: 100 MiB of names."""
Positions = npt.NDArray[np.int64]
NOWHERE: Final[Positions] = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Remaining:
    """Positions in the plan still to be done, ascending, and how many are done, held and dead. Of the done ones `older`
    are of an earlier fingerprint; of those to be done `again` are done today, and `touched` are the positions of those
    (held ones too) of which only the stores say something else about their inputs."""

    positions: Positions
    done: int
    dead: int
    older: int = 0
    again: int = 0
    touched: Positions = field(default_factory=lambda: NOWHERE)
    held: int = 0


def remaining(
    plan: PlanReader,
    known: Known,
    *,
    recheck: bool,
    retry_dead: bool,
    fingerprint: str = "",
    max_older: int | None = 0,
) -> Remaining:
    """Compare the plan with the ledger: done and held items are skipped while their request and, with `recheck`, their
    inputs' identity are unchanged; dead ones too unless `retry_dead`.

    Args:
        fingerprint: That of the present start.
        max_older: How many items to do again that are only of another fingerprint, the first of the plan; None: all.
    """
    skip = (known.status != UNKNOWN) & (hashes_of(plan.columns(["request"])["request"]) == known.request)
    done, held, dead = (known.has(status) for status in ("done", "held", "dead"))
    now = known.runs.index(fingerprint) if fingerprint in known.runs else UNKNOWN - 1
    older = known.run != now
    if retry_dead:
        skip &= ~dead
    touched = NOWHERE
    if recheck and skip.any():
        touched = _touched(plan, np.flatnonzero(skip), known.identity)
        skip[touched] = False
    if max_older is None or max_older > 0:
        skip[np.flatnonzero(skip & older)[:max_older]] = False
    todo = np.flatnonzero(~skip)
    return Remaining(
        todo,
        done=int((skip & done).sum()),
        dead=int((skip & dead).sum()),
        older=int((skip & done & older).sum()),
        again=int((~skip & done).sum()),
        touched=touched[~dead[touched]],
        held=int((skip & held).sum()),
    )


def _touched(plan: PlanReader, positions: Positions, recorded: Hashes) -> Positions:
    """Those of `positions` of whose inputs the stores say something else than is `recorded`. Many are looked up
    together, so that one listing tells of those that lie together."""
    shared: dict[str, str] = {}
    found = [NOWHERE]
    for start in range(0, len(positions), _LOOKED_UP):
        chunk = positions[start : start + _LOOKED_UP]
        items = [plan.item(int(p))[0] for p in chunk]
        known = shared | storage.identities([u for item in items for u in input_uris(item) if u not in shared])
        now = hashes_of(pa.array([identity_of(item, known) for item in items], pa.string()))
        found.append(chunk[now != recorded[chunk]])
        # Masks and references may be shared by many items, and are few then; images are an item's own.
        images = {item.image for item in items}
        shared |= {uri: said for uri, said in known.items() if uri not in images}
        if len(shared) > _LOOKED_UP:
            shared.clear()
    return np.concatenate(found)
