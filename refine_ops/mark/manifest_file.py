"""The manifest that is marked: read as a run reads it, and written whole, so that no reader ever sees half of one."""

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.job.planning.manifest import SCHEMA, read_items
from refine_ops.job.planning.rows import ITEM_FIELDS, REGION_FIELDS, RowProblem
from refine_ops.records import Item, Region

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_SHOWN: Final = 5
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}


def read_marked(uri: str) -> list[Item]:
    """All items of a manifest; none where the file is not there yet.

    Raises:
        JobError: it lies elsewhere than on this machine, is of no known format, or has a row that cannot be read: that
            row would be lost when the manifest is written again.
    """
    if storage.is_s3(uri):
        raise JobError(f"{uri}: a manifest that is being marked is a local file; copy it here, and back when done")
    if _suffix(uri) not in SUFFIXES:
        raise JobError(f"{uri}: a manifest's name ends in {', '.join(SUFFIXES)}")
    if not os.path.exists(uri):
        return []
    found = list(read_items(uri))
    problems = [f"row {p.row}: {p.reason}: {p.message}" for p in found if isinstance(p, RowProblem)]
    if problems:
        listed = "\n  ".join(problems[:_SHOWN])
        raise JobError(
            f"{uri}: {len(problems)} rows cannot be read, and would be lost when it is saved:\n  {listed}\n"
            f"mend them first (`refine-ops check {uri}` lists all), or name another file with --manifest"
        )
    return [item for item in found if isinstance(item, Item)]


def manifest_bytes(items: Iterable[Item], uri: str) -> bytes:
    """The file for `items`, in the format of the name; what lies below its folder is named relative to it."""
    base, suffix = storage.folder_of(uri), _suffix(uri)
    rows = [row_of(item, base) for item in items]
    if suffix == ".parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out)
        return out.getvalue()
    if suffix in _DELIMITERS:
        return _flat(rows, _DELIMITERS[suffix])
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def row_of(item: Item, base: str) -> dict[str, Any]:
    """An item as a nested row; what a reader would fill in by itself is left out."""
    row: dict[str, Any] = {"item_id": item.item_id, "image": storage.relative(item.image, base)}
    if item.output != posixpath.normpath(item.item_id + posixpath.splitext(item.image)[1].lower()):
        row["output"] = item.output
    if item.category:
        row["category"] = item.category
    return row | {"regions": [region_row(region, base) for region in item.regions]}


def region_row(region: Region, base: str) -> dict[str, Any]:
    """A region as the manifest holds it, without what it does not have."""
    scribble = region.scribble
    values: dict[str, Any] = {
        "region_id": region.region_id,
        "prompt": region.prompt,
        "box": None if region.box is None else list(region.box),
        "mask": None if region.mask is None else storage.relative(region.mask, base),
        "scribble": None
        if scribble is None
        else {"strokes": [[list(point) for point in s] for s in scribble.strokes], "width": scribble.width_px},
        "reference": None if region.reference is None else storage.relative(region.reference, base),
        "seed": region.seed,
        "paste": None if region.paste == "mask" else region.paste,
        "mask_level": region.mask_level,
        "mask_class": region.mask_class,
        "mask_invert": region.mask_invert or None,
        "references": [storage.relative(uri, base) for uri in region.references] or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _flat(rows: Iterable[Mapping[str, Any]], delimiter: str) -> bytes:
    """One row per region, as a spreadsheet opens it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, (*ITEM_FIELDS, *REGION_FIELDS), restval="", delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        item = {name: row[name] for name in ITEM_FIELDS if name in row}
        writer.writerows(item | {name: _cell(name, value) for name, value in r.items()} for r in row["regions"])
    return out.getvalue().encode()


def _cell(name: str, value: Any) -> Any:
    if name == "box":
        return ",".join(map(str, value))
    return json.dumps(value) if name in ("scribble", "references") else value
