"""The canary: a small stratified sample goes first, and the fleet follows only if it came through well."""

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops.config import CanaryLimits
from refine_ops.errors import Unacceptable
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Alignment


def sample_canary(plan: PlanReader, todo: Remaining, size: int) -> Remaining:
    """About `size` of the remaining items, evenly over categories and number of regions; the same on every start."""
    table = plan.columns(["item_id", "category", "region_count"]).take(pa.array(todo.positions))
    strata: dict[tuple[str, int], list[int]] = defaultdict(list)
    rows = zip(table["category"].to_pylist(), table["region_count"].to_pylist(), strict=True)
    for index, stratum in enumerate(rows):
        strata[stratum].append(index)
    ids = table["item_id"]
    for members in strata.values():
        members.sort(key=lambda i: hashlib.blake2b(ids[i].as_py().encode(), digest_size=8).digest())
    queues = list(strata.values())
    chosen: list[int] = []
    while len(chosen) < min(size, table.num_rows):
        for members in queues:
            if members and len(chosen) < size:
                chosen.append(members.pop())
    picked = np.sort(np.array(chosen, np.int64))
    return replace(todo, positions=todo.positions[picked])


def check_canary(folder: RunFolder, plan: PlanReader, sample: Remaining, limits: CanaryLimits) -> str:
    """One sentence with the figures, if the sample passes.

    Raises:
        Unacceptable: too many dead items, or the model drifts; nothing else has been run.
    """
    ids = plan.columns(["item_id"])["item_id"].take(pa.array(sample.positions)).combine_chunks()
    ledger = read_ledger(folder.outcomes, ["status", "reason", "regions"], start=folder.start)
    ledger = ledger.filter(pc.is_in(ledger["item_id"], value_set=ids))
    dead = ledger.filter(pc.equal(ledger["status"], "dead"))
    share = dead.num_rows / max(1, len(ids))
    regions = [region for row in ledger["regions"].to_pylist() for region in row or ()]
    drifts = [Alignment(**r["alignment"]) for r in regions if r["alignment"]["measured"]]
    de00 = float(np.median([d.de00_before for d in drifts])) if drifts else 0.0
    shift = float(np.median([d.shift_px for d in drifts])) if drifts else 0.0
    figures = (
        f"{len(ids)} items, {share:.1%} dead (limit {limits.max_dead:.1%}), "
        f"raw drift of {len(drifts)} measured regions: "
        f"median {de00:.2f} dE00 (limit {limits.max_de00}) and {shift:.2f} px (limit {limits.max_shift_px})"
    )
    if not drifts and len(dead) < len(ids) and not limits.allow_unmeasured:
        raise Unacceptable(
            f"the canary failed, nothing else was run: of {len(ids)} items no region's drift could be measured (too "
            "few known pixels around the regions?), which proves nothing; canary_limits.allow_unmeasured=true goes on"
        )
    if share > limits.max_dead or de00 > limits.max_de00 or shift > limits.max_shift_px:
        reasons = ", ".join(sorted(set(dead["reason"].to_pylist()))) or "drift"
        raise Unacceptable(
            f"the canary failed, nothing else was run: {figures}; look at: {reasons}, and `refine-ops doctor`"
        )
    return figures
