"""What of a plan is still to be done: the plan compared with the ledger, and with the stores where asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops.job.inputs import identity_of
from refine_ops.job.planning.plan import PlanReader


@dataclass(frozen=True, slots=True)
class Remaining:
    """Positions in the plan still to be done, ascending, and how many are done and dead."""

    positions: npt.NDArray[np.int64]
    done: int
    dead: int


def remaining(plan: PlanReader, ledger: pa.Table, *, recheck: bool, retry_dead: bool) -> Remaining:
    """Compare the plan with the ledger (columns `status, request, identity`): done items are skipped while their
    request and, with `recheck`, their inputs' identity are unchanged; dead ones too unless `retry_dead`.
    """
    table = plan.columns(["item_id", "request"])
    index = pc.index_in(table["item_id"], value_set=ledger["item_id"].combine_chunks())
    known = np.asarray(pc.is_valid(index))
    matched = ledger.take(pc.drop_null(index)) if known.any() else ledger.slice(0, 0)
    skip = np.zeros(len(table), dtype=bool)
    skip[known] = np.asarray(pc.equal(table["request"].combine_chunks().filter(pa.array(known)), matched["request"]))
    dead = np.zeros(len(table), dtype=bool)
    dead[known] = np.asarray(pc.equal(matched["status"], "dead"))
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
    todo = np.flatnonzero(~skip)
    return Remaining(todo, done=int((skip & ~dead).sum()), dead=int((skip & dead).sum()))
