"""What of a plan is still to be done: the plan compared with the ledger, and with the stores where asked."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.job.inputs import identity_of, input_uris
from refine_ops.job.planning.plan import PlanReader

REMAINING_COLUMNS: Final = ("status", "request", "identity", "run_fingerprint")
"""What `remaining` needs of the ledger."""
_LOOKED_UP: Final = 1 << 17
"""Items whose inputs are looked up together: 100 MiB of names."""
Positions = npt.NDArray[np.int64]
NOWHERE: Final[Positions] = np.zeros(0, np.int64)
Flags = npt.NDArray[np.bool_]


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
    ledger: pa.Table,
    *,
    recheck: bool,
    retry_dead: bool,
    fingerprint: str = "",
    max_older: int | None = 0,
) -> Remaining:
    """Compare the plan with the ledger (`REMAINING_COLUMNS`): done and held items are skipped
    while their request and, with `recheck`, their inputs' identity are unchanged; dead ones too unless `retry_dead`.

    Args:
        fingerprint: That of the present start.
        max_older: How many items to do again that are only of another fingerprint, the first of the plan; None: all.
    """
    table = plan.columns(["item_id", "request"])
    index = pc.index_in(table["item_id"], value_set=ledger["item_id"].combine_chunks())
    known = np.asarray(pc.is_valid(index))
    matched = ledger.take(pc.drop_null(index)) if known.any() else ledger.slice(0, 0)

    def of_known(values: pa.ChunkedArray) -> Flags:
        flags = np.zeros(len(table), dtype=bool)
        flags[known] = np.asarray(values)
        return flags

    skip = of_known(pc.equal(table["request"].combine_chunks().filter(pa.array(known)), matched["request"]))
    done, held, dead = (of_known(pc.equal(matched["status"], status)) for status in ("done", "held", "dead"))
    older = of_known(pc.not_equal(matched["run_fingerprint"], fingerprint))
    if retry_dead:
        skip &= ~dead
    touched = NOWHERE
    if recheck and skip.any():
        positions = np.flatnonzero(skip)
        touched = _touched(plan, positions, matched["identity"], (np.cumsum(known) - 1)[positions])
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


def _touched(plan: PlanReader, positions: Positions, recorded: pa.ChunkedArray, rows: Positions) -> Positions:
    """Those of `positions` of whose inputs the stores say something else than `recorded` does in the row of `rows`.
    Many are looked up together, so that one listing tells of those that lie together."""
    shared: dict[str, str] = {}
    found = [NOWHERE]
    for start in range(0, len(positions), _LOOKED_UP):
        chunk = positions[start : start + _LOOKED_UP]
        items = [plan.item(int(p))[0] for p in chunk]
        known = shared | storage.identities([u for item in items for u in input_uris(item) if u not in shared])
        before = recorded.take(pa.array(rows[start : start + _LOOKED_UP])).to_pylist()
        changed = [identity_of(item, known) != b for item, b in zip(items, before, strict=True)]
        found.append(chunk[np.array(changed, bool)])
        # Masks and references may be shared by many items, and are few then; images are an item's own.
        images = {item.image for item in items}
        shared |= {uri: said for uri, said in known.items() if uri not in images}
        if len(shared) > _LOOKED_UP:
            shared.clear()
    return np.concatenate(found)
