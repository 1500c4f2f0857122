"""The ledger: what became of every item, as Parquet parts in `outcomes/`. It is the truth; no database is.

A part is written whole or not at all. Parts are only added; of several outcomes of one item the latest counts, so a
part may repeat what another says. The Parquet schema is derived from `records.Outcome`.
"""

import dataclasses
import logging
import threading
import time
import types
import typing
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import ItemError
from refine_ops.records import Outcome

logger = logging.getLogger(__name__)

_HASH_CHARS: Final = 16
"""Of SHA-256, in a part's name: one damaged bit anywhere makes the whole part unreadable, whichever columns are asked
for; else a reader of two columns would count items as done whose other columns are gone."""
_SCALARS: Final = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is typing.Literal:
        return pa.string()
    if origin is types.UnionType:
        return _arrow_type(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return pa.list_(_arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(_arrow_type(arguments[0]), _arrow_type(arguments[1]))
    return pa.struct(list(_arrow_fields(hint)))


def _arrow_fields(record: type) -> Iterable[pa.Field]:
    hints = typing.get_type_hints(record)
    return (pa.field(f.name, _arrow_type(hints[f.name])) for f in dataclasses.fields(record))


OUTCOME_SCHEMA: Final = pa.schema(list(_arrow_fields(Outcome)), metadata={"refine_ops.outcome": "1"})


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
    """Publish a part under a name that sorts by time and ends in its own hash; returns its URI."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    name = f"part-{time.time_ns():020d}-{writer_id}-{storage.sha256(data)[:_HASH_CHARS]}.parquet"
    uri = storage.join(folder, name)
    storage.write(uri, data)
    return uri


def read_ledger(folder: str, columns: list[str] | None = None) -> pa.Table:
    """The latest outcome of every item (all columns, or `item_id` and `columns`), in no particular order.

    A part that cannot be read is left out with a warning: its items count as not done and will be redone.
    """
    wanted = None if columns is None else list(dict.fromkeys(["item_id", "finished_at", *columns]))
    parts = list(read_parts(list(storage.list_files(folder, ".parquet")), wanted).values())
    if not parts:
        fields = OUTCOME_SCHEMA if wanted is None else pa.schema([OUTCOME_SCHEMA.field(name) for name in wanted])
        return fields.empty_table()
    return latest(pa.concat_tables(parts))


def read_parts(uris: list[str], columns: list[str] | None) -> dict[str, pa.Table]:
    """Ledger parts by URI; unreadable ones are left out with a warning."""
    with ThreadPoolExecutor(8) as pool:
        tables = pool.map(lambda uri: _read_part(uri, columns), uris)
        return {uri: table for uri, table in zip(uris, tables, strict=True) if table is not None}


def _read_part(uri: str, columns: list[str] | None) -> pa.Table | None:
    try:
        data = storage.read(uri)
        if storage.sha256(data)[:_HASH_CHARS] != uri[-len(".parquet") - _HASH_CHARS : -len(".parquet")]:
            raise OSError("its bytes are not those that were written")
        return pq.read_table(pa.BufferReader(data), columns=columns).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ItemError) as e:
        logger.warning("ledger part %s is unreadable (%s); its items will be redone", uri, e)
        return None


def latest(table: pa.Table) -> pa.Table:
    """Of the rows of one item, the one that finished last."""
    table = table.take(pc.sort_indices(table, sort_keys=[("finished_at", "ascending")]))
    ids = table["item_id"].combine_chunks()
    codes = np.asarray(pc.dictionary_encode(ids).indices)
    last = np.zeros(int(codes.max()) + 1 if len(codes) else 0, dtype=np.int64)
    last[codes] = np.arange(len(codes))
    return table.take(pa.array(np.sort(last)))


def compact(folder: str) -> None:
    """Rewrite all parts as one, then remove them; safe to kill anywhere, as a repeated outcome changes nothing."""
    parts = read_parts(list(storage.list_files(folder, ".parquet")), None)
    if len(parts) < 2:
        return
    write_part(folder, latest(pa.concat_tables(parts.values())), "compact")
    for uri in parts:
        storage.delete(uri)


def dead_letter(ledger: pa.Table) -> pa.Table:
    """The dead items with their reasons, from `read_ledger`."""
    columns = ["item_id", "row", "image", "category", "reason", "message", "attempts", "finished_at"]
    return ledger.filter(pc.equal(ledger["status"], "dead")).select(columns).sort_by("row")
