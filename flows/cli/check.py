"""`refine-ops check`: every row of a manifest that could not be refined, and why, before anything runs."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.progress import ProgressDisplay
from refine_ops.chain import memory_needed, open_item
from refine_ops.config import AccessSettings, RefineSettings, WorkerSettings
from refine_ops.errors import ItemError
from refine_ops.job.inputs import read_inputs
from refine_ops.job.planning.plan import Plan, PlanReader, scan_manifest
from refine_ops.job.planning.rows import RowProblem
from refine_ops.job.rank.byte_budget import ByteBudget
from refine_ops.records import Item

_THREADS = 8
_CHUNK = 64


def check_manifest(
    manifest: str, access: AccessSettings, settings: RefineSettings, *, open_files: bool, allow_empty: bool = False
) -> tuple[Plan, list[RowProblem]]:
    """The plan's counts and all problems, by row; with `open_files` every image, mask and reference is decoded too."""
    with tempfile.TemporaryDirectory() as scratch:
        local = str(Path(scratch) / "plan.parquet")
        plan = scan_manifest(
            manifest,
            local,
            access=access,
            any_suffix=settings.write.changes_suffixes,
            allow_empty=allow_empty,
            on_progress=ProgressDisplay("plan").update,
        )
        problems = list(plan.problems)
        if open_files:
            problems += _open_all(PlanReader(local), access, settings)
    return plan, sorted(problems, key=lambda p: p.row)


def _open_all(plan: PlanReader, access: AccessSettings, settings: RefineSettings) -> Iterator[RowProblem]:
    budget, ticker = ByteBudget(WorkerSettings().queue_bytes), ProgressDisplay("check")
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(plan), _CHUNK):
            items = [plan.item(p)[0] for p in range(start, min(start + _CHUNK, len(plan)))]
            for done, problem in enumerate(pool.map(lambda item: _open(item, access, settings, budget), items), start):
                ticker.update(done + 1, len(plan))
                if problem is not None:
                    yield problem


def _open(item: Item, access: AccessSettings, settings: RefineSettings, budget: ByteBudget) -> RowProblem | None:
    held = 0
    try:
        inputs = read_inputs(item, access, settings.limits.max_bytes)
        size = memory_needed(item, inputs, settings.limits)
        budget.acquire(size)
        held = size
        open_item(item, inputs, settings)
    except ItemError as e:
        return RowProblem(item.row, item.item_id, e.reason, str(e))
    finally:
        budget.release(held)
    return None
