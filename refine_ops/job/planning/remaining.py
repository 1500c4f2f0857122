"""What of a plan is still to be done: the plan compared with the ledger, and with the stores where asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops.job.inputs import identity_of
from refine_ops.job.planning.plan import PlanReader

REMAINING_COLUMNS: Final = ("status", "request", "identity", "run_fingerprint")
"""What `remaining` needs of the ledger."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Remaining:
    """Positions in the plan still to be done, ascending, and how many are done and dead. Of the done ones `older` are
    of an earlier fingerprint; of those to be done `again` are done today."""

    positions: npt.NDArray[np.int64]
    done: int
    dead: int
    older: int = 0
    again: int = 0


def remaining(
    plan: PlanReader,
    ledger: pa.Table,
    *,
    recheck: bool,
    retry_dead: bool,
    fingerprint: str = "",
    max_older: int | None = 0,
) -> Remaining:
    """Compare the plan with the ledger (`REMAINING_COLUMNS`): done items are skipped
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
    dead = of_known(pc.equal(matched["status"], "dead"))
    older = of_known(pc.not_equal(matched["run_fingerprint"], fingerprint))
    if retry_dead:
        skip &= ~dead
    if recheck and skip.any():
        recorded = np.full(len(table), "", dtype=object)
        recorded[known] = matched["identity"].to_numpy(zero_copy_only=False)
        positions = np.flatnonzero(skip)
        with ThreadPoolExecutor(16) as pool:
            for chunk in np.array_split(positions, len(positions) // 4096 + 1):
                now = pool.map(identity_of, [plan.item(int(p))[0] for p in chunk])
                skip[chunk] = [a == b for a, b in zip(now, recorded[chunk], strict=True)]
    if max_older is None or max_older > 0:
        skip[np.flatnonzero(skip & older)[:max_older]] = False
    todo = np.flatnonzero(~skip)
    return Remaining(
        todo,
        done=int((skip & ~dead).sum()),
        dead=int((skip & dead).sum()),
        older=int((skip & ~dead & older).sum()),
        again=int((~skip & ~dead & known).sum()),
    )
