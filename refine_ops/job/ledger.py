"""The ledger: what became of every item, as Parquet parts in `outcomes/`. It is the truth; no database is.

A part is written whole or not at all. Parts are only added; of several outcomes of one item the latest start's counts,
so a part may repeat what another says; outcomes of a start that its canary refused count for nothing. The Parquet
schema is derived from `records.Outcome`; parts of older releases are read as if they had its defaults.
"""

import contextlib
import dataclasses
import logging
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import ItemError, JobError, Missing
from refine_ops.job.record_schema import fit_schema, record_fields
from refine_ops.job.starts import void_starts
from refine_ops.records import Outcome

logger = logging.getLogger(__name__)
T = TypeVar("T")

_ORDER: Final = ("item_id", "start", "status", "finished_at")
"""What `latest` needs of every part."""
PART_THREADS: Final = 4
RANKED: Final = ["dead", "held", "done"]
"""Of several outcomes of an item within one start a later one of these counts."""
IDS: Final[list[str]] = ["item_id"]
"""Given as `columns` of `read_parts`: ids alone, without what tells the latest outcome."""
_MERGED: Final = "merged"
_MERGED_ROWS: Final = 1 << 18
"""Of a merged part at least, if there are so many: 230 MB while it is made, 37 MB on disk."""
_READ_TOGETHER: Final = 64
_PART: Final = re.compile(r"part-(\d{8})-")
_HASH_CHARS: Final = 16
"""Of SHA-256, in a part's name: one damaged bit anywhere makes the whole part unreadable, whichever columns are asked
for; else a reader of two columns would count items as done whose other columns are gone."""
OUTCOME_VERSION: Final = 10
"""Of the schema that `records.Outcome` makes; goes up by one with every change of it (a test holds them together)."""
_VERSION_KEY: Final = b"refine_ops.outcome"
OUTCOME_SCHEMA: Final = pa.schema(record_fields(Outcome), metadata={_VERSION_KEY: str(OUTCOME_VERSION)})


def outcomes_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """Outcomes as a table of `OUTCOME_SCHEMA`."""
    return pa.Table.from_pylist([dataclasses.asdict(o) for o in outcomes], schema=OUTCOME_SCHEMA)


class LedgerWriter:
    """Collects outcomes and writes a part when `flush_items` are waiting or the oldest waits `flush_s` seconds.

    Thread-safe. An outcome given to `add` is durable after the next `flush`.
    """

    def __init__(self, folder: str, writer_id: str, flush_items: int = 256, flush_s: float = 20.0) -> None:
        self._folder, self._writer_id = folder, writer_id
        self._flush_items, self._flush_s = flush_items, flush_s
        self._waiting: list[Outcome] = []
        self._oldest = 0.0
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(outcome)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        with self._lock:
            waiting = len(self._waiting)
            due = waiting >= self._flush_items or (waiting and time.monotonic() - self._oldest >= self._flush_s)
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one part.

        Raises:
            JobError: the ledger cannot be written; the outcomes stay waiting.
        """
        with self._write_lock:
            with self._lock:
                batch = list(self._waiting)
            if not batch:
                return
            write_part(self._folder, outcomes_table(batch), self._writer_id)
            with self._lock:
                del self._waiting[: len(batch)]
                self._oldest = time.monotonic()


def write_part(folder: str, table: pa.Table, writer_id: str) -> str:
    """Publish a part of one start's outcomes under a name that begins with the start, goes on with the time and ends
    in its own hash; returns its URI."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(OUTCOME_SCHEMA.metadata), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    start = pc.max(table["start"]).as_py()
    name = f"part-{start:08d}-{time.time_ns():020d}-{writer_id}-{storage.sha256(data)[:_HASH_CHARS]}.parquet"
    uri = storage.join(folder, name)
    storage.write(uri, data)
    return uri


def read_ledger(
    folder: str, columns: list[str] | None = None, items: pa.Array | None = None, start: int | None = None
) -> pa.Table:
    """The latest outcome of every item, or of `items`, or of one start, in no particular order: all columns, or
    `item_id` and `columns`.

    A part whose content is damaged is left out with a warning: its items count as not done and will be redone.

    Raises:
        JobError: a part is there and cannot be read, or is of a newer release.
    """
    parts = listed_anew(folder, lambda uris: list(read_parts(uris, columns, items=items, start=start).values()))
    return latest(_without_void(folder, pa.concat_tables(parts))) if parts else _schema(columns).empty_table()


def latest_in_parts(folder: str, columns: list[str], items: pa.Array) -> Iterator[pa.Table]:
    """What `read_ledger` of `items` gives, one part after the other: never are all these columns of the whole ledger in
    memory.

    Raises:
        JobError: as `read_ledger`.
    """
    order = read_parts(list(storage.list_files(folder, ".parquet")), [])
    placed = [
        table.append_column("part", pa.array(np.full(len(table), part, np.int32))).append_column(
            "at", pa.array(np.arange(len(table), dtype=np.int32))
        )
        for part, table in enumerate(order.values())
    ]
    if not placed:
        return
    found = _without_void(folder, pa.concat_tables(placed))
    counted = latest(found.filter(pc.is_in(found["item_id"], value_set=items))).select(["part", "at"])
    uris = list(order)
    del order, placed, found
    for part, uri in enumerate(uris):
        rows = counted.filter(pc.equal(counted["part"], part))["at"]
        if len(rows):
            yield from (table.take(rows) for table in read_parts([uri], columns).values())


def listed_anew(folder: str, read: Callable[[list[str]], T]) -> T:
    """What `read` makes of the parts' URIs. A start that ends merges its parts: what was listed a moment ago may have
    become part of another one, and is listed again then."""
    for last in (False, False, False, False, True):
        try:
            return read(list(storage.list_files(folder, ".parquet")))
        except JobError as e:
            if last or not isinstance(e.__cause__, Missing):
                raise
    raise AssertionError("the last time returns or raises")


def read_history(folder: str, item_ids: pa.Array, columns: list[str] | None) -> pa.Table:
    """All outcomes ever of these items, in no particular order, with `item_id`, `start`, `status` and `columns`, or all
    columns.

    Raises:
        JobError: as `read_ledger`.
    """
    uris = list(storage.list_files(folder, ".parquet"))
    parts = list(read_parts(uris, columns, items=item_ids).values())
    return _without_void(folder, pa.concat_tables(parts)) if parts else _schema(columns).empty_table()


def _without_void(folder: str, table: pa.Table) -> pa.Table:
    void = void_starts(storage.folder_of(folder))
    return table.filter(pc.invert(pc.is_in(table["start"], value_set=pa.array(sorted(void))))) if void else table


def read_parts(
    uris: list[str],
    columns: list[str] | None,
    *,
    skip_unreachable: bool = False,
    items: pa.Array | None = None,
    start: int | None = None,
) -> dict[str, pa.Table]:
    """Ledger parts by URI, with `item_id`, `finished_at` and `columns`, or all columns. Damaged ones are left out.

    Args:
        items: Only what these became; the rest of a part is let go of as soon as it is read.
        start: Only what is told of this start; parts of others are not read.
        skip_unreachable: For who asks again soon: leave out, with a warning, what cannot be read just now.

    Raises:
        JobError: as `read_ledger`.
    """
    schema = pa.schema([OUTCOME_SCHEMA.field("item_id")]) if columns is IDS else _schema(columns)
    if start is not None:
        uris = [uri for uri in uris if _start_of(uri) == start]
    with ThreadPoolExecutor(PART_THREADS) as pool:
        tables = pool.map(lambda uri: _read_part(uri, schema, skip_unreachable, items), uris)
        return {uri: table for uri, table in zip(uris, tables, strict=True) if table is not None}


def _schema(columns: list[str] | None) -> pa.Schema:
    names = OUTCOME_SCHEMA.names if columns is None else dict.fromkeys([*_ORDER, *columns])
    return pa.schema([OUTCOME_SCHEMA.field(name) for name in names])


_kept_in: list[Path] = []


@contextlib.contextmanager
def parts_kept() -> Iterator[None]:
    """While this lasts, a part that lies in S3 is fetched once, however often a start looks into its ledger: it is kept
    in a folder of this machine's (140 bytes an item). Parts never change, and their names end in their hash."""
    with tempfile.TemporaryDirectory(prefix="refine-ops-ledger-") as folder:
        _kept_in.append(Path(folder))
        try:
            yield
        finally:
            _kept_in.pop()


def _part_bytes(uri: str) -> bytes:
    if not _kept_in or not storage.is_s3(uri):
        return storage.read(uri)
    kept = _kept_in[-1] / uri.rsplit("/", 1)[-1]
    with contextlib.suppress(FileNotFoundError):
        return kept.read_bytes()
    data = storage.read(uri)
    if _is_whole(uri, data):
        with contextlib.suppress(OSError):  # no room here: it is fetched again
            half = kept.with_name(uuid.uuid4().hex)
            half.write_bytes(data)
            os.replace(half, kept)
    return data


def _is_whole(uri: str, data: bytes) -> bool:
    return storage.sha256(data)[:_HASH_CHARS] == uri[-len(".parquet") - _HASH_CHARS : -len(".parquet")]


def _read_part(uri: str, schema: pa.Schema, skip_unreachable: bool, items: pa.Array | None) -> pa.Table | None:
    try:
        data = _part_bytes(uri)
    except ItemError as e:
        # To take it for empty would redo all it holds, a whole catalogue where the ledger is one compacted part.
        if not skip_unreachable:
            raise JobError(
                f"ledger part {uri} is there and cannot be read ({e}); without it, all that it holds would be refined "
                "once more. Mend the store or its permissions, then run the same command again."
            ) from e
        logger.warning("ledger part %s cannot be read just now (%s)", uri, e)
        return None
    try:
        if not _is_whole(uri, data):
            raise OSError("its bytes are not those that were written")
        file = pq.ParquetFile(pa.BufferReader(data))
        written = int((file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"1"))
        if written > OUTCOME_VERSION:
            raise JobError(
                f"ledger part {uri} was written by a newer release (its version {written}, this release reads up to "
                f"{OUTCOME_VERSION}); update refine-ops here, or use another --out"
            )
        table = file.read(columns=[name for name in schema.names if name in file.schema_arrow.names])
        if items is not None:
            table = table.filter(pc.is_in(table["item_id"], value_set=items))
        return fit_schema(table, Outcome, schema)
    except (pa.ArrowException, OSError) as e:
        logger.warning("ledger part %s is damaged (%s); its items will be redone", uri, e)
        return None


def latest(table: pa.Table) -> pa.Table:
    """Of the rows of one item, that of the latest start; within one start done beats held, held beats dead, and then
    the later one counts.

    Starts have numbers, so a machine whose clock is wrong cannot put an old outcome above a new one.
    """
    rank = pc.index_in(table["status"], value_set=pa.array(RANKED))
    keys = pa.table({"start": table["start"], "rank": rank, "finished_at": table["finished_at"]})
    table = table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]))
    ids = table["item_id"].combine_chunks()
    codes = np.asarray(pc.dictionary_encode(ids).indices)
    last = np.zeros(int(codes.max()) + 1 if len(codes) else 0, dtype=np.int64)
    last[codes] = np.arange(len(codes))
    return table.take(pa.array(np.sort(last)))


def compact(folder: str) -> None:
    """Merge the parts of every start into few large ones, then remove them; safe to kill anywhere, as a repeated
    outcome changes nothing. What earlier starts recorded is neither read nor written again: it is the history."""
    by_start: dict[int, list[str]] = {}
    for uri in storage.list_files(folder, ".parquet"):
        if (start := _start_of(uri)) is not None and f"-{_MERGED}-" not in uri:
            by_start.setdefault(start, []).append(uri)
    for uris in by_start.values():
        waiting: dict[str, pa.Table] = {}
        for at in range(0, len(uris), _READ_TOGETHER):
            waiting |= read_parts(uris[at : at + _READ_TOGETHER], None)
            if sum(map(len, waiting.values())) >= _MERGED_ROWS:
                _merge(folder, waiting)
                waiting = {}
        _merge(folder, waiting)


def _merge(folder: str, parts: dict[str, pa.Table]) -> None:
    if len(parts) > 1:
        write_part(folder, latest(pa.concat_tables(parts.values())), _MERGED)
        storage.delete_many(list(parts))


def _start_of(uri: str) -> int | None:
    named = _PART.match(uri.rsplit("/", 1)[-1])
    return int(named[1]) if named else None


def dead_letter(ledger: pa.Table) -> pa.Table:
    """The dead items with their reasons, from `read_ledger`."""
    return ledger.filter(pc.equal(ledger["status"], "dead")).select(["item_id", *DEAD_LETTER]).sort_by("row")


DEAD_LETTER: Final = ("row", "image", "category", "reason", "message", "attempts", "finished_at")
