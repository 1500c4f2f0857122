"""The report's machine files: `items.parquet` (every number) and `evidence/` (pictures, a page per part, and the large
ones of the first screen)."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.job.record_schema import record_fields
from refine_ops.records import Agreement
from refine_ops.report.figures import FIGURES, CloseUp, Compared, Finding, ItemMeasure, RegionMeasure

PAGE_ITEMS = 50
"""Items per evidence part and per page of the HTML report's data."""

_FINDING = pa.struct(record_fields(Finding))
_REGION = pa.struct(
    [
        *((n, pa.string()) for n in ("region_id", "prompt", "made_by", "reference", "held")),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("agreement", pa.struct(record_fields(Agreement))),
    ]
)
ITEMS_SCHEMA = pa.schema(
    [
        *(
            (n, pa.string())
            for n in ("run", "item_id", "fingerprint", "status", "reason", "message", "image", "output")
        ),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("severity", pa.float64()),
        *((m.name, pa.float64()) for m in FIGURES),
        ("metadata_lost", pa.list_(pa.string())),
        ("findings", pa.list_(_FINDING)),
        ("regions", pa.list_(_REGION)),
        ("slices", pa.map_(pa.string(), pa.string())),
        ("attempts", pa.int32()),
        ("gpu_s", pa.float64()),
        ("finished_at", pa.float64()),
        ("start", pa.int64()),
        ("page", pa.int32()),
    ],
    metadata={"refine_ops.report.items": "3"},
)
_EVIDENCE_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("item_id", pa.string()),
        ("thumb", pa.binary()),
        ("outlines", pa.string()),
        ("pictures", pa.list_(pa.struct([(n, pa.binary()) for n in ("before", "after", "difference", "raw")]))),
    ]
)
_CLOSE_UPS = pa.schema(
    [
        *((n, pa.string()) for n in ("run", "item_id", "said", "after_said")),
        *((n, pa.binary()) for n in ("before", "after", "reference")),
    ]
)
_PICTURES = ("before", "after", "difference", "raw")


def write_items(folder: str, items: Sequence[tuple[ItemMeasure, int]]) -> None:
    """Write `items.parquet`, worst first; each item with the number of its evidence part."""
    ordered = sorted(items, key=lambda entry: (-entry[0].severity, entry[0].run, entry[0].item_id))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, ITEMS_SCHEMA, compression="zstd") as writer:
        for start in range(0, len(ordered), 5000):
            rows = [_item_row(item, page) for item, page in ordered[start : start + 5000]]
            writer.write_table(pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA))
    storage.write(storage.join(folder, "items.parquet"), sink.getvalue())


def read_items(folder: str) -> pa.Table:
    """`items.parquet`, worst first.

    Raises:
        ItemError: it is not there.
    """
    return pq.read_table(pa.BufferReader(storage.read(storage.join(folder, "items.parquet"))))


def item_of(row: dict[str, Any]) -> ItemMeasure:
    """A row of `items.parquet` as the record it was written from."""
    plain = {name: row[name] for name in ("run", "item_id", "fingerprint", "status", "reason", "message", "image")}
    plain |= {
        name: row[name] for name in ("output", "format", "width", "height", "attempts", "gpu_s", "finished_at", "start")
    }
    return ItemMeasure(
        **plain,
        metadata_lost=tuple(row["metadata_lost"]),
        metrics={m.name: row[m.name] for m in FIGURES if row[m.name] is not None},
        regions=tuple(_region(r) for r in row["regions"]),
        findings=tuple(Finding(**f) for f in row["findings"]),
        slices=dict(row["slices"]),
    )


def _region(row: dict[str, Any]) -> RegionMeasure:
    agreement = row.get("agreement")  # reports of before 0.2 have none
    known = {name: row[name] for name in ("made_by", "reference", "held") if row.get(name) is not None}
    return RegionMeasure(
        row["region_id"],
        row["prompt"],
        dict(row["metrics"]),
        agreement=Agreement(**agreement) if agreement else None,
        **known,
    )


def write_pictures(folder: str, part: int, page: Sequence[Compared]) -> None:
    """Write the pictures of up to `PAGE_ITEMS` items as one part."""
    rows = []
    for compared in page:
        windows = [asdict(w) for w in compared.windows]
        rows.append(
            {
                "run": compared.measure.run,
                "item_id": compared.measure.item_id,
                "thumb": compared.thumb,
                "pictures": [{name: w.pop(name) for name in _PICTURES} for w in windows],
                "outlines": json.dumps(windows, separators=(",", ":")),
            }
        )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_EVIDENCE_SCHEMA), sink, compression="none")
    storage.write(_part(folder, part), sink.getvalue())


def read_pictures(folder: str, part: int) -> dict[tuple[str, str], dict[str, Any]]:
    """`{(run, item_id): {"thumb": bytes, "windows": [...]}}` of one part; a window is a dict of `Window`'s fields."""
    found = {}
    for row in pq.read_table(pa.BufferReader(storage.read(_part(folder, part)))).to_pylist():
        windows = [a | b for a, b in zip(json.loads(row["outlines"]), row["pictures"], strict=True)]
        found[(row["run"], row["item_id"])] = {"thumb": row["thumb"], "windows": windows}
    return found


def write_close_ups(folder: str, close_ups: Iterable[CloseUp]) -> None:
    """Write the large pictures of the first screen."""
    sink = io.BytesIO()
    table = pa.Table.from_pylist([asdict(c) for c in close_ups], schema=_CLOSE_UPS)
    pq.write_table(table, sink, compression="none")
    storage.write(_first_screen(folder), sink.getvalue())


def read_close_ups(folder: str) -> dict[tuple[str, str], CloseUp]:
    """The large pictures by (run, item id); none in reports of before there were any."""
    if not storage.exists(_first_screen(folder)):
        return {}
    rows = pq.read_table(pa.BufferReader(storage.read(_first_screen(folder)))).to_pylist()
    return {(row["run"], row["item_id"]): CloseUp(**row) for row in rows}


def _first_screen(folder: str) -> str:
    return storage.join(folder, "evidence", "first-screen.parquet")


def _part(folder: str, part: int) -> str:
    return storage.join(folder, "evidence", f"part-{part:05d}.parquet")


def _item_row(item: ItemMeasure, page: int) -> dict[str, Any]:
    row = {name: getattr(item, name) for name in ITEMS_SCHEMA.names if hasattr(item, name)}
    row |= {m.name: item.metrics.get(m.name) for m in FIGURES}
    row["findings"] = [asdict(f) for f in item.findings]
    row["regions"] = [asdict(r) | {"metrics": list(r.metrics.items())} for r in item.regions]
    row["slices"] = list(item.slices.items())
    row["page"] = page
    return row
