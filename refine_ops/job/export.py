"""The published set, copied to where it is used: only what changed, removals guarded, killed or not.

A receipt at the target, `.refine-ops-published.parquet`, is the snapshot as it stands there. It is written before
anything is copied, with what is on its way marked, so that a killed export leaves no file that nobody knows of.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import ItemError, JobError, Missing
from refine_ops.job import published
from refine_ops.job.published import Snapshot
from refine_ops.progress import OnProgress, no_progress

RECEIPT: Final = ".refine-ops-published.parquet"
_ON_ITS_WAY: Final = bytes(32)
"""A hash that no file has: what is marked so is copied again by the next export."""
_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class Changes:
    """What an export does to its target, by plain name: `copied` to their objects, `removed`, and how many stay."""

    copied: dict[str, str]
    removed: tuple[str, ...]
    unchanged: int


def changes(snapshot: Snapshot, receipt: pa.Table | None) -> Changes:
    """The difference between what may be used and what a target has."""
    wanted = {row["name"]: row for row in snapshot.table.to_pylist()}
    there = {} if receipt is None else dict(zip(*(receipt[c].to_pylist() for c in ("name", "sha256")), strict=True))
    copied = {name: row["object"] for name, row in wanted.items() if there.get(name) != row["sha256"]}
    removed = tuple(sorted(there.keys() - wanted.keys()))
    return Changes(copied, removed, len(wanted) - len(copied))


def export(
    run: str,
    to: str,
    *,
    max_removed: float = 0.1,
    on_progress: OnProgress = no_progress,
) -> Changes:
    """Bring `to` (a local folder or an S3 prefix) to the newest published set of `run`.

    Args:
        max_removed: Largest share of what the target has that may go.

    Raises:
        JobError: nothing is published; an output is lost or altered; more would be removed than `max_removed`; the
            target cannot be read or written, or lies inside the run folder.
    """
    run, to = _resolved(run), _resolved(to)
    if storage.inside(to, run) or storage.inside(run, to):
        raise JobError(f"{to} and the run folder {run} lie in each other; export to a folder of its own")
    snapshot = published.newest(run)
    if snapshot is None:
        raise JobError(f"{run} has published nothing yet; a start publishes when it ends within its budgets")
    receipt = _read_receipt(to)
    found = changes(snapshot, receipt)
    if receipt is not None and len(found.removed) > max_removed * receipt.num_rows:
        raise JobError(
            f"{len(found.removed)} of {receipt.num_rows} files at {to} are no longer published, more than the allowed "
            f"share of {max_removed:.0%}; if that is right: --max-removed {len(found.removed) / receipt.num_rows:.2f}"
        )
    _write_receipt(to, _on_the_way(snapshot, receipt, found))
    hashes = dict(zip(*(snapshot.table[c].to_pylist() for c in ("name", "sha256")), strict=True))
    total = len(found.copied) + len(found.removed)

    def copy(name: str) -> None:
        _copy(storage.join(run, found.copied[name]), storage.join(to, name), hashes[name], run)

    for count, _ in enumerate(_parallel(copy, list(found.copied)), start=1):
        on_progress(count, total)
    for count, _ in enumerate(
        _parallel(lambda name: storage.delete(storage.join(to, name)), list(found.removed)), start=len(found.copied) + 1
    ):
        on_progress(count, total)
    _write_receipt(to, snapshot.table)
    return found


def file_list(run: str) -> Iterator[tuple[str, str, str]]:
    """(plain name, URI, SHA-256 in hex) of everything published, for other tools.

    Raises:
        JobError: nothing is published, or the snapshot cannot be read.
    """
    run = _resolved(run)
    snapshot = published.newest(run)
    if snapshot is None:
        raise JobError(f"{run} has published nothing yet")
    for row in snapshot.table.select(["name", "object", "sha256"]).to_pylist():
        yield row["name"], storage.join(run, row["object"]), row["sha256"].hex()


def _on_the_way(snapshot: Snapshot, receipt: pa.Table | None, found: Changes) -> pa.Table:
    """Everything that may stand at the target while an export runs; what is not known to stand there is marked."""
    rows = {} if receipt is None else {row["name"]: row for row in receipt.to_pylist()}
    for row in snapshot.table.to_pylist():
        if row["name"] in found.copied:
            rows[row["name"]] = row | {"sha256": _ON_ITS_WAY}
    return pa.Table.from_pylist(list(rows.values()), schema=published.SCHEMA)


def _copy(source: str, target: str, sha256: bytes, run: str) -> None:
    try:
        data = storage.read(source)
    except Missing as e:
        raise JobError(f"{source} is lost; `refine-ops verify {run}` has it made again") from e
    except ItemError as e:
        raise JobError(f"{source}: {e}") from e
    if bytes.fromhex(storage.sha256(data)) != sha256:
        raise JobError(f"{source} was altered since it was published; `refine-ops verify {run}` has it made again")
    storage.write(target, data)


def _parallel(step: Callable[[str], None], names: list[str]) -> Iterator[None]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(names), 1024):  # bounded: a pool takes everything it is handed
            yield from pool.map(step, names[start : start + 1024])


def _read_receipt(to: str) -> pa.Table | None:
    uri = storage.join(to, RECEIPT)
    try:
        return pq.read_table(pa.BufferReader(storage.read(uri)))
    except Missing:
        return None
    except (ItemError, pa.ArrowException, OSError) as e:
        raise JobError(f"{uri} cannot be read ({e}); restore it, or export to an empty place") from e


def _write_receipt(to: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write(storage.join(to, RECEIPT), sink.getvalue().to_pybytes())


def _resolved(uri: str) -> str:
    try:
        return storage.resolve(uri)
    except ItemError as e:
        raise JobError(str(e)) from e
