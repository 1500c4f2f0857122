"""Numbers that need a model (LPIPS, text accuracy). They are computed elsewhere, as the report runs without torch, and
read here from `metrics.parquet`: `item_id`, `region_id`, `output_sha256` and any of the columns of `MODELLED`."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.report.run_items import ReportedItem

FILE: Final = "metrics.parquet"
MODELLED: Final = ("raw_lpips", "region_lpips", "text_gain")
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("item_id", "region_id", "output_sha256")),
        *((name, pa.float64()) for name in MODELLED),
    ]
)


def with_modelled(items: Iterable[ReportedItem], uri: str) -> Iterator[ReportedItem]:
    """The items with what `uri` says of their regions, if there is such a file; a row about another output than the
    item's is left out, and what is absent is 'not measured'."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(uri):
        rows.setdefault(row["item_id"], []).append(row)
    for item in items:
        extra = {}
        for row in rows.get(item.item_id, ()):
            about, recorded = row.get("output_sha256") or "", item.output_sha256
            if not about or not recorded or about == recorded:
                extra[row["region_id"]] = {n: float(row[n]) for n in MODELLED if row.get(n) is not None}
        yield replace(item, extra=extra) if extra else item


def write_modelled(uri: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put `rows` in place of the same items' rows; those of other items stay."""
    fresh = {row["item_id"] for row in rows}
    kept = [row for row in _rows(uri) if row["item_id"] not in fresh]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([*kept, *rows], schema=_SCHEMA), sink, compression="zstd")
    storage.write(uri, sink.getvalue())


def _rows(uri: str) -> list[dict[str, Any]]:
    if not storage.exists(uri):
        return []
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(storage.read(uri))).to_pylist()
    return rows
