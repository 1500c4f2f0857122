"""The work order of a run on many machines: which positions are to be done, by shard, and how far they are.

The parent writes it once; lanes read their shards from it. An item counts as finished when the ledger has an outcome
of it that was not there when the order was made. Clocks of different machines are never compared.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import ItemError, JobError
from refine_ops.job.ledger import read_ledger, read_parts
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder

_CONFIG: Final = b"refine_ops.config"
_PLAN: Final = b"refine_ops.plan"
_START: Final = b"refine_ops.start"
_SCHEMA: Final = pa.schema(
    [
        ("position", pa.int64()),
        ("shard", pa.int32()),
        ("item_id", pa.string()),
        ("seen", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Order:
    """A written order of the start `start`. `plan` is the SHA-256 of the plan its positions refer to; `seen` is when
    the outcome known before the order was finished, or 0 where there was none."""

    uri: str
    plan: str
    start: int
    config: RefineBatchConfig
    table: pa.Table

    def shards(self) -> npt.NDArray[np.int32]:
        """The shard of every row, `int32 (rows,)`."""
        return np.asarray(self.table["shard"].combine_chunks())


def write_order(config: RefineBatchConfig, folder: RunFolder, todo: Remaining) -> Order:
    """Write `orders/<hash>.parquet` into the run folder; equal orders have equal names."""
    plan = PlanReader(folder.plan).columns(["item_id", "shard"]).take(pa.array(todo.positions))
    ids = plan["item_id"].combine_chunks()
    ledger = read_ledger(folder.outcomes, [])
    found = pc.index_in(ids, value_set=ledger["item_id"].combine_chunks())
    seen = pc.fill_null(pc.take(ledger["finished_at"].combine_chunks(), found), 0.0)
    columns = [pa.array(todo.positions), plan["shard"], ids, seen]
    metadata = {
        _CONFIG: config.model_dump_json().encode(),
        _PLAN: plan_digest(folder).encode(),
        _START: str(folder.start).encode(),
    }
    return _publish(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), folder, config)


def _publish(table: pa.Table, folder: RunFolder, config: RefineBatchConfig) -> Order:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    uri = storage.join(folder.uri, "orders", f"{storage.sha256(data)[:16]}.parquet")
    storage.write(uri, data)
    metadata = table.schema.metadata
    return Order(uri, metadata[_PLAN].decode(), int(metadata[_START]), config, table)


def read_order(uri: str, folder: RunFolder) -> Order:
    """An order of the run in `folder`.

    Raises:
        JobError: it is not there, is damaged, lies outside the run folder, or refers to another plan than the present
            one.
    """
    if not storage.inside(uri, folder.uri):
        raise JobError(f"order {uri} does not belong to the run {folder.uri}; let refine-batch dispatch its lanes")
    try:
        table = pq.read_table(pa.BufferReader(storage.read(uri)))
        metadata = table.schema.metadata
        config = RefineBatchConfig.model_validate_json(metadata[_CONFIG])
        order = Order(uri, metadata[_PLAN].decode(), int(metadata[_START]), config, table)
    except (ItemError, pa.ArrowException, KeyError, ValueError) as e:
        raise JobError(f"order {uri} cannot be read ({e}); run refine-batch again, it writes a new one") from e
    if order.plan != plan_digest(folder):
        raise JobError(f"order {uri} was made for another plan than {folder.plan}; run refine-batch again")
    return order


def plan_digest(folder: RunFolder) -> str:
    """SHA-256 of `plan.parquet`; equal manifests and settings give equal plans."""
    try:
        return storage.sha256(storage.read(folder.plan))
    except ItemError as e:
        raise JobError(f"the plan cannot be read ({e}); run refine-batch again, it is made anew") from e


class OrderProgress:
    """How far an order is. `refresh` reads only ledger parts it has not read yet."""

    def __init__(self, order: Order, folder: RunFolder) -> None:
        self._order, self._outcomes = order, folder.outcomes
        self._ids = order.table["item_id"].combine_chunks()
        self._seen = np.asarray(order.table["seen"].combine_chunks())
        self._shards = order.shards()
        self._parts: set[str] = set()
        self.finished = np.zeros(len(self._ids), bool)
        self.dead = np.zeros(len(self._ids), bool)
        self.held = np.zeros(len(self._ids), bool)

    def refresh(self) -> int:
        """Take in new outcomes; returns how many items they finished."""
        before = int(self.finished.sum())
        fresh = [uri for uri in storage.list_files(self._outcomes, ".parquet") if uri not in self._parts]
        tables = read_parts(fresh, ["status"], skip_unreachable=True)
        self._parts |= tables.keys()
        if tables:
            table = pa.concat_tables(tables.values())
            found = pc.index_in(table["item_id"], value_set=self._ids)
            known = np.asarray(pc.is_valid(found))
            rows = np.asarray(pc.drop_null(found), np.int64)
            times = np.asarray(table["finished_at"])[known]
            new = times != self._seen[rows]
            self.finished[rows[new]] = True
            for status, flags in (("dead", self.dead), ("held", self.held)):
                flags[rows[new]] = np.asarray(pc.equal(table["status"], status))[known][new]
        return int(self.finished.sum()) - before

    def narrowed(self, shards: Collection[int], folder: RunFolder) -> Order:
        """A new, written order of what is unfinished of `shards`.

        A lane that does the rest of another's work is told what that is: the parent has read the ledger already, and
        hundreds of lanes that each read millions of outcomes would be the larger part of all requests.
        """
        mine = np.isin(self._shards, np.array(sorted(shards), np.int32))
        return _publish(self._order.table.filter(pa.array(mine & ~self.finished)), folder, self._order.config)

    def unfinished(self, shards: Collection[int] | None = None) -> dict[int, int]:
        """Items still to be done per shard, of the given shards or of all."""
        left = self._shards[~self.finished]
        counts = zip(*np.unique(left, return_counts=True), strict=True)
        return {int(shard): int(count) for shard, count in counts if shards is None or int(shard) in shards}


def share_of(order: Order, shards: Collection[int]) -> Remaining:
    """What the order holds of `shards`."""
    mine = order.table.filter(pa.array(np.isin(order.shards(), np.array(sorted(shards), np.int32))))
    return Remaining(np.asarray(mine["position"].combine_chunks()), done=0, dead=0)
