"""The manifest: Parquet, JSONL or CSV, one row per image or one row per region, read as a stream of items.

Version 1 of the published schema is `SCHEMA` (nested form). The flat form has the same fields on one level, one row
per region; rows of one `item_id` belong together wherever they stand, in their order. What spreadsheets and data frames
do to a table is `tables`' concern.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from refine_ops import storage
from refine_ops.cells import text_of
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.job.planning.rows import ITEM_FIELDS, REGION_FIELDS, RowProblem, parse_row
from refine_ops.records import Item
from refine_ops.tables.read import open_table
from refine_ops.tables.table import Row, Table, check_columns, gathered

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
        ("references", pa.list_(pa.string())),
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

_NESTED: Final = (*ITEM_FIELDS, "regions")
_FLAT: Final = (*ITEM_FIELDS, *REGION_FIELDS)


def read_items(
    uri: str,
    access: AccessSettings | None = None,
    limit: int | None = None,
    on_hash: Callable[[str], object] = lambda _: None,
) -> Iterator[Item | RowProblem]:
    """Items and problems in manifest order, the first `limit` of them; memory is bounded for nested Parquet.

    Duplicate ids and outputs are not looked for here (see `plan`), as that needs all rows. `on_hash` is told the
    SHA-256 of the file, before the first item comes.

    Raises:
        JobError: the file cannot be read, is of no known format, or has unknown columns.
    """
    try:
        uri = storage.resolve(uri)
        base = storage.folder_of(uri)
        data = storage.read(uri) if _read_whole(uri) else None
        table = open_table(uri, dict.fromkeys((*_NESTED, *_FLAT)), data)
        on_hash(_hash_of(uri, data))
        for row in islice(_nested_rows(uri, table), limit):
            if row.problem:
                yield RowProblem(row.number, f"row-{row.number}", "row.unreadable", row.problem)
            else:
                yield parse_row(row.number, row.values, base, access or AccessSettings())
    except (JobError, ItemError) as e:
        raise JobError(f"manifest {e}") from e


def _read_whole(uri: str) -> bool:
    """Whether all its bytes are in memory anyway: text, and what lies in S3."""
    return storage.is_s3(uri) or uri.lower().endswith((".jsonl", ".ndjson", ".csv", ".tsv"))


def _hash_of(uri: str, data: bytes | None) -> str:
    if data is not None:
        return storage.sha256(data)
    with open(uri, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _nested_rows(uri: str, table: Table) -> Iterator[Row]:
    """One row per item; flat rows are gathered by `item_id` (for millions of them Parquet takes the least memory)."""
    if table.columns is None:
        return _mixed_rows(uri, table)
    if "regions" in table.columns:
        check_columns(uri, table.columns, _NESTED)
        return table.rows()
    if table.columns and "item_id" not in table.columns:
        raise JobError(f"{uri}: no column 'item_id'; there are {', '.join(table.columns)}")
    return _joined(table.gathered("item_id")) if table.columns else iter(())


def _mixed_rows(uri: str, table: Table) -> Iterator[Row]:
    """Rows of JSON Lines, each nested or flat as it stands; the flat ones come last."""
    flat: list[Row] = []
    for row in table.rows():
        if row.problem or "regions" in row.values:
            check_columns(f"{uri}, line {row.number}", row.values, _NESTED)
            yield row
        else:
            flat.append(row)
    yield from _joined(gathered(flat, "item_id"))


def _joined(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows that follow each other and have one id, as one item with their regions; a row without id stands alone.

    Rows that disagree about the image are found by `parse_row`.
    """
    item: Row | None = None
    for row in rows:
        if row.problem:
            yield row
            continue
        item_id = text_of(row.values.get("item_id"))
        if item is None or item_id is None or item_id != text_of(item.values.get("item_id")):
            if item is not None:
                yield item
            item = Row(row.number, {**{n: v for n, v in row.values.items() if n in ITEM_FIELDS}, "regions": []})
        _join(item.values, row.values)
    if item is not None:
        yield item


def _join(item: dict[str, Any], raw: dict[str, Any]) -> None:
    item["regions"].append({name: raw[name] for name in REGION_FIELDS if name in raw})
    for name in ITEM_FIELDS:
        if name in raw and text_of(raw[name]) != text_of(item.setdefault(name, raw[name])):
            item["conflict"] = f"its rows disagree on {name}: {item[name]!r} and {raw[name]!r}"
