"""The manifest: Parquet, JSONL or CSV, one row per image or one row per region, read as a stream of items.

Version 1 of the published schema is `SCHEMA` (nested form). The flat form has the same fields on one level, one row
per region; rows of one `item_id` belong together wherever they stand, in their order.
"""

import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.job.planning.rows import ITEM_FIELDS, REGION_FIELDS, RowProblem, parse_row
from refine_ops.records import Item

SCHEMA_VERSION: Final = 1
REGION_TYPE: Final = pa.struct(
    [
        ("region_id", pa.string()),
        ("prompt", pa.string()),
        ("box", pa.list_(pa.int32())),
        ("mask", pa.string()),
        ("scribble", pa.struct([("strokes", pa.list_(pa.list_(pa.list_(pa.float64())))), ("width", pa.float64())])),
        ("reference", pa.string()),
        ("seed", pa.int64()),
        ("paste", pa.string()),
        ("mask_level", pa.int32()),
        ("mask_class", pa.int32()),
        ("mask_invert", pa.bool_()),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("output", pa.string()),
        pa.field("category", pa.string()),
        pa.field("regions", pa.list_(REGION_TYPE), nullable=False),
    ],
    metadata={"refine_ops.manifest": str(SCHEMA_VERSION)},
)

Row = tuple[int, dict[str, Any]]


def read_items(uri: str, access: AccessSettings | None = None, limit: int | None = None) -> Iterator[Item | RowProblem]:
    """Items and problems in manifest order, the first `limit` of them; memory is bounded for nested Parquet.

    Duplicate ids and outputs are not looked for here (see `plan`), as that needs all rows.

    Raises:
        JobError: the file cannot be read, is of no known format, or has unknown columns.
    """
    uri = _resolve(uri)
    base = storage.folder_of(uri)
    for row, raw in islice(_nested_rows(uri), limit):
        yield parse_row(row, raw, base, access or AccessSettings())


def _resolve(uri: str) -> str:
    try:
        return storage.resolve(uri)
    except ItemError as e:
        raise JobError(f"manifest {e}") from e


def _nested_rows(uri: str) -> Iterator[Row]:
    try:
        if uri.endswith((".parquet", ".pq")):
            return _parquet_rows(uri)
        if uri.endswith((".jsonl", ".ndjson")):
            return _grouped(uri, _jsonl_rows(uri, storage.read(uri)))
        if uri.endswith(".csv"):
            return _grouped(uri, _csv_rows(uri, storage.read(uri)))
    except ItemError as e:
        raise JobError(f"manifest {e}") from e
    raise JobError(f"manifest {uri}: expected a name ending in .parquet, .jsonl or .csv")


def _parquet_rows(uri: str) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read(uri)) if storage.is_s3(uri) else uri)
    except FileNotFoundError as e:
        raise JobError(f"manifest {uri}: no such file") from e
    except (pa.ArrowException, OSError) as e:
        raise JobError(f"manifest {uri}: not a readable Parquet file: {e}") from e
    names = file.schema_arrow.names
    nested = "regions" in names
    _check_columns(uri, names, nested)
    if nested:
        return enumerate(row for batch in file.iter_batches(8192) for row in batch.to_pylist())
    return _flat_table_rows(file.read())


def _flat_table_rows(table: pa.Table) -> Iterator[Row]:
    """Rows of one item brought together by a stable sort on first appearance, then streamed."""
    codes = pc.dictionary_encode(table["item_id"].combine_chunks())
    codes = np.asarray(codes.indices.fill_null(-1))
    order = np.argsort(codes, kind="stable")
    current: dict[str, Any] | None = None
    first, code = 0, None
    for start in range(0, len(order), 8192):
        chunk = order[start : start + 8192]
        for index, raw in zip(chunk.tolist(), table.take(pa.array(chunk)).to_pylist(), strict=True):
            if current is None or codes[index] != code or code == -1:
                if current is not None:
                    yield first, current
                current, first, code = _item_part(raw), index, codes[index]
            _join(current, raw)
    if current is not None:
        yield first, current


def _grouped(uri: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Nested rows as they are; flat rows gathered by `item_id` (in memory: Parquet is the format for millions)."""
    groups: dict[Any, Row] = {}
    for row, raw in rows:
        nested = "regions" in raw
        _check_columns(f"{uri}, row {row}", list(raw), nested)
        if nested:
            yield row, raw
            continue
        item_id = raw.get("item_id")
        key = item_id if isinstance(item_id, str | int) else ("no id", row)
        _, item = groups.setdefault(key, (row, _item_part(raw)))
        _join(item, raw)
    yield from groups.values()


def _item_part(raw: dict[str, Any]) -> dict[str, Any]:
    return {**{name: raw.get(name) for name in ITEM_FIELDS}, "regions": []}


def _join(item: dict[str, Any], raw: dict[str, Any]) -> None:
    """Add a flat row's region to its item; rows that disagree about the image are found by `parse_row`."""
    item["regions"].append({name: raw[name] for name in REGION_FIELDS if raw.get(name) is not None})
    for name in ITEM_FIELDS:
        if raw.get(name) is not None and raw[name] != item[name]:
            item["conflict"] = f"its rows disagree on {name}: {item[name]!r} and {raw[name]!r}"


def _jsonl_rows(uri: str, data: bytes) -> Iterator[Row]:
    for row, line in enumerate(data.splitlines()):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise JobError(f"manifest {uri}, line {row + 1}: not JSON: {e}") from e
        if not isinstance(raw, dict):
            raise JobError(f"manifest {uri}, line {row + 1}: expected an object, got {type(raw).__name__}")
        yield row, raw


def _csv_rows(uri: str, data: bytes) -> Iterator[Row]:
    """Flat rows; empty cells are absent; `box` is `x0,y0,x1,y1`, `scribble` JSON."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        for row, raw in enumerate(reader):
            if None in raw:
                raise JobError(f"manifest {uri}, row {row}: more cells than columns; quote cells that hold commas")
            yield row, {name: value for name, value in raw.items() if value}
    except (UnicodeDecodeError, csv.Error) as e:
        raise JobError(f"manifest {uri}: not UTF-8 CSV: {e}") from e


def _check_columns(where: str, names: list[str], nested: bool) -> None:
    known = (*ITEM_FIELDS, "regions") if nested else (*ITEM_FIELDS, *REGION_FIELDS)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise JobError(f"manifest {where}: unknown column {name!r}{hint} Known are: {', '.join(known)}")
    if "item_id" not in names and not nested:
        raise JobError(f"manifest {where}: no column 'item_id'")
