"""What a run folder needs over months: published outputs checked, and what nobody can reach any more removed.

Both are starts: while one is at work nothing else is, and what they did is on record.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.errors import ItemError, JobError, Missing
from refine_ops.job import outcome, published
from refine_ops.job.ledger import outcomes_table, read_ledger, write_part
from refine_ops.job.published import Snapshot
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.starts import open_start, void_start
from refine_ops.progress import OnProgress, no_progress

_THREADS: Final = 16
MADE_BY_STARTS: Final = ("outputs", "held", "patches", "masks")
"""Folders whose files lie under the start that made them."""
_DAY_S: Final = 86_400.0

Damage = Literal["output.lost", "output.altered"]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A published output that is not what was published."""

    item_id: str
    name: str
    reason: Damage


def check_outputs(
    folder: RunFolder, *, repair: bool = True, on_progress: OnProgress = no_progress
) -> tuple[int, list[Damaged]]:
    """Read every published output and compare it with its SHA-256; returns how many, and what is damaged.

    With `repair`, damaged ones are taken out of the published set at once, and the next start refines them again.

    Raises:
        JobError: the published set cannot be read, or an output cannot be reached just now (which is no damage).
    """
    snapshot = published.newest(folder.uri)
    if snapshot is None:
        return 0, []
    damaged = list(_damaged(folder, snapshot, on_progress))
    if damaged and repair:
        _take_out(folder, snapshot, damaged)
    return snapshot.table.num_rows, damaged


def _damaged(folder: RunFolder, snapshot: Snapshot, on_progress: OnProgress) -> Iterator[Damaged]:
    rows = snapshot.table.select(["item_id", "name", "object", "sha256"])

    def look(row: dict[str, Any]) -> Damaged | None:
        try:
            data = storage.read(storage.join(folder.uri, row["object"]))
        except Missing:
            return Damaged(row["item_id"], row["name"], "output.lost")
        except ItemError as e:
            raise JobError(f"{row['object']} of {folder.uri} cannot be read just now: {e}") from e
        intact = bytes.fromhex(storage.sha256(data)) == row["sha256"]
        return None if intact else Damaged(row["item_id"], row["name"], "output.altered")

    with ThreadPoolExecutor(_THREADS) as pool:
        done = 0
        for batch in rows.to_batches(max_chunksize=1024):
            for found in pool.map(look, batch.to_pylist()):
                done += 1
                on_progress(done, rows.num_rows)
                if found is not None:
                    yield found


def _take_out(folder: RunFolder, snapshot: Snapshot, damaged: list[Damaged]) -> None:
    start = open_start(folder.uri, {"command": "verify"})
    try:
        bad = {d.item_id: d.reason for d in damaged}
        rows = [r for r in read_ledger(folder.outcomes, ["row", "image", "output"]).to_pylist() if r["item_id"] in bad]
        outcomes = [
            outcome.damaged(r["item_id"], r["row"], r["image"], r["output"], start.number, bad[r["item_id"]])
            for r in rows
        ]
        write_part(folder.outcomes, outcomes_table(outcomes), "verify")
        kept = snapshot.table.filter(pc.invert(pc.is_in(snapshot.table["item_id"], value_set=pa.array(list(bad)))))
        start.refuse_if_lost()
        published.link_current(folder.uri, published.commit(folder.uri, start.number, kept))
    except BaseException:
        start.close("failed")
        raise
    start.close("done", damaged=len(damaged))


def roll_back(folder: RunFolder, to: int) -> Snapshot:
    """Use the pictures of an earlier start again: what later starts refined counts for nothing any more.

    The next start goes on from there: it refines again, with the settings it is given, what had changed since.

    Raises:
        JobError: that start published nothing, or files of it were pruned.
    """
    committed = published.committed(folder.uri)
    if to not in committed:
        shown = ", ".join(map(str, committed[-10:])) or "none"
        raise JobError(f"start {to} of {folder.uri} published nothing; the newest ones that did: {shown}")
    table = published.read(folder.uri, to).table
    _refuse_pruned(folder, table, to)
    start = open_start(folder.uri, {"command": "rollback", "to": to})
    try:
        for number in range(to + 1, start.number):
            void_start(folder.uri, number)
        start.refuse_if_lost()
        snapshot = published.commit(folder.uri, start.number, table)
        published.link_current(folder.uri, snapshot)
    except BaseException:
        start.close("failed")
        raise
    start.close("done", rolled_back_to=to)
    return snapshot


def _refuse_pruned(folder: RunFolder, table: pa.Table, start: int) -> None:
    objects = table["object"].to_pylist()
    starts = sorted({"/".join(o.split("/")[:2]) for o in objects})
    there = {uri for made in starts for uri in storage.list_files(storage.join(folder.uri, made))}
    gone = [o for o in objects if storage.join(folder.uri, o) not in there]
    if gone:
        raise JobError(
            f"{len(gone)} outputs of start {start} were pruned, {gone[0]!r} among them; roll back to a newer start"
        )


@dataclass(frozen=True, slots=True)
class Pruned:
    """Files that nobody can reach: how many, and below which folders; `removed` says whether they were deleted."""

    uris: tuple[str, ...]
    kept: int
    removed: bool


def prune(
    folder: RunFolder,
    *,
    snapshots: int = 30,
    min_age_days: float = 7.0,
    dry_run: bool = True,
    now: Callable[[], float] = time.time,
) -> Pruned:
    """Remove what no one of the newest `snapshots` names and no next start would publish, once it is old enough.

    Never while a start is open. Reports, the ledger, the starts and the snapshots themselves stay.

    Raises:
        RunInUse: a start is open.
        JobError: the folder cannot be listed or written.
    """
    start = open_start(folder.uri, {"command": "prune", "snapshots": snapshots, "dry_run": dry_run})
    try:
        reachable = _reachable(folder, snapshots)
        oldest_kept = now() - min_age_days * _DAY_S
        gone, kept = [], 0
        for kind in MADE_BY_STARTS:
            root = storage.join(folder.uri, kind)
            for uri, written in storage.list_written(root):
                if written < oldest_kept and not _reached(uri[len(root) + 1 :], kind, reachable):
                    gone.append(uri)
                else:
                    kept += 1
        gone += [u for u, written in storage.list_written(storage.join(folder.uri, "orders")) if written < oldest_kept]
        if not dry_run:
            start.refuse_if_lost()
            storage.delete_many(gone)
    except BaseException:
        start.close("failed")
        raise
    start.close("done", pruned=0 if dry_run else len(gone))
    return Pruned(tuple(gone), kept, not dry_run)


def _reachable(folder: RunFolder, snapshots: int) -> frozenset[str]:
    """Objects that a kept snapshot names or the next commit would, and candidates that still wait for a person."""
    found: set[str] = set()
    for number in published.committed(folder.uri)[-snapshots:]:
        found.update(published.read(folder.uri, number).table["object"].to_pylist())
    ledger = read_ledger(folder.outcomes, ["status", "object", "candidate"])
    ledger = ledger.filter(pc.not_equal(ledger["status"], "dead"))
    found.update(ledger["object"].to_pylist(), ledger["candidate"].to_pylist())
    return frozenset(found)


def _reached(path: str, kind: str, reachable: frozenset[str]) -> bool:
    if kind in ("outputs", "held"):
        return f"{kind}/{path}" in reachable
    # patches and masks are named after their object: `<object>.<region>.png`, `<object>.png`
    stem = path.removesuffix(".png")
    return any(f"{of}/{name}" in reachable for of in ("outputs", "held") for name in (stem, stem.rpartition(".")[0]))
