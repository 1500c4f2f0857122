"""Run folders of release 0.1.0, brought to the form that starts work in: nothing is refined again for it.

There, outputs lay under plain names and were written over, the ledger's parts named no start, and nothing said what may
be used. Taking a folder over is itself a start: it puts every output that is what the ledger says where immutable ones
lie, records its outcome anew, publishes, and only then removes what it replaced; killed anywhere, it is repeated.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.errors import ItemError, JobError
from refine_ops.job import outcome, published
from refine_ops.job.ledger import OUTCOME_SCHEMA, outcomes_table, read_ledger, write_part
from refine_ops.job.planning.plan import PlanReader, request_of
from refine_ops.job.run_folder import TAKE_OVER, RunFolder, is_of_an_earlier_release
from refine_ops.job.starts import open_start
from refine_ops.progress import OnProgress, no_progress
from refine_ops.records import Outcome

_CHUNK: Final = 4096
_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class TakenOver:
    """How many outputs are published now, and how many were lost or altered and will be refined again."""

    published: int
    damaged: int


def take_over(folder: RunFolder, on_progress: OnProgress = no_progress) -> TakenOver:
    """Bring a run folder of release 0.1.0 to the present form.

    Raises:
        JobError: it is of the present form already, another process is at work in it, or it cannot be read or written.
    """
    if not is_of_an_earlier_release(folder.uri):
        raise JobError(f"{folder.uri} is of this release already; there is nothing to take over")
    old_parts = list(storage.list_files(folder.outcomes, ".parquet"))
    start = open_start(folder.uri, {"command": TAKE_OVER})
    try:
        taking = _Taking(replace(folder, start=start.number))
        ledger = read_ledger(folder.outcomes)
        for at in range(0, len(ledger), _CHUNK):
            taking.take(ledger.slice(at, _CHUNK))
            on_progress(min(at + _CHUNK, len(ledger)), len(ledger))
        start.refuse_if_lost()
        known = read_ledger(folder.outcomes, list(published.LEDGER_COLUMNS))
        snapshot = published.commit(folder.uri, start.number, published.compose(known, taking.planned))
        published.link_current(folder.uri, snapshot)
        storage.delete_many(old_parts)
        storage.delete_many(taking.replaced)
    except BaseException:
        start.close("failed")
        raise
    start.close("done", published=snapshot.table.num_rows, damaged=taking.damaged)
    return TakenOver(snapshot.table.num_rows, taking.damaged)


class _Taking:
    """Puts outputs in their places and records them anew, a slice of the ledger at a time."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._plan = PlanReader(folder.plan)
        table = self._plan.columns(["item_id"])
        self.planned = table["item_id"].combine_chunks()
        self.replaced: list[str] = []
        self.damaged = 0

    def take(self, old: pa.Table) -> None:
        positions = pc.fill_null(pc.index_in(old["item_id"], value_set=self.planned), -1).to_pylist()
        rows = old.to_pylist()
        with ThreadPoolExecutor(_THREADS) as pool:
            sound = list(pool.map(self._put, rows))
        kept, lost = [], []
        for row, position, is_sound in zip(rows, positions, sound, strict=True):
            if not is_sound:
                lost.append(self._lost(row))
                continue
            item, request = self._plan.item(position) if position >= 0 else (None, "")
            if item is not None and row["request"] == request:
                row["request"] = request_of(item)  # a category was part of it once
            kept.append({**row, **self._present(row)})
        if kept:
            write_part(self._folder.outcomes, pa.Table.from_pylist(kept, schema=OUTCOME_SCHEMA), "taken")
        if lost:
            write_part(self._folder.outcomes, outcomes_table(lost), "taken")
            self.damaged += len(lost)

    def _put(self, row: dict[str, Any]) -> bool:
        """Whether the output is what the ledger says; then it lies where this start's outputs lie."""
        if row["status"] != "done" or row["object"]:
            return True
        old = storage.join(self._folder.outputs, row["output"])
        try:
            data = storage.read(old)
        except ItemError:
            return False
        if storage.sha256(data) != row["output_sha256"]:
            return False
        storage.write(self._folder.uri_of(self._folder.object_of(row["output"])), data, only_if_absent=True)
        self.replaced.append(old)
        return True

    def _present(self, row: dict[str, Any]) -> dict[str, Any]:
        """What outcomes have today and had not then."""
        placed = row["status"] == "done" and not row["object"]
        return {
            "start": self._folder.start,
            "object": self._folder.object_of(row["output"]) if placed else row["object"],
            "run_fingerprint": row["run_fingerprint"] or self._folder.fingerprint,
        }

    def _lost(self, row: dict[str, Any]) -> Outcome:
        where = (row["row"], row["image"], row["output"], self._folder.start)
        return outcome.damaged(row["item_id"], *where, "output.altered")
