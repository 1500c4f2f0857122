"""The manifest of source images: one row per image, image pair, or annotated object.

| column | |
| --- | --- |
| `image` | I*, the clean target: path, `file://` or `s3://`; relative to the manifest |
| `reference` | optional I_ref showing the same subject: makes the row reference-based |
| `box`, `reference_box` | optional annotation `x0,y0,x1,y1` in pixels of the upright image, half-open |
| `description` | optional short noun phrase ("the label of the bottle") |
| `families` | optional style families, a list or `a;b`, for exclusion by name |
| `licence` | optional, recorded in every sample |
| `source_id` | optional, unique, `[A-Za-z0-9._-]`; default is the row number |
"""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.detect.objects import clean_description
from refine_ops.errors import ItemError, JobError
from refine_ops.records import Box

_COLUMNS = {"image", "reference", "box", "reference_box", "description", "families", "licence", "source_id"}
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_COORDINATE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row, checked; URIs are absolute. `problem` is set where the row cannot be used: (reason, message)."""

    source_id: str
    image: str = ""
    reference: str | None = None
    box: Box | None = None
    reference_box: Box | None = None
    description: str = ""
    families: tuple[str, ...] = ()
    licence: str = "unknown"
    problem: tuple[str, str] | None = None


def read_manifest(data: bytes, uri: str, access: AccessSettings) -> list[SourceRow]:
    """All rows in order; bad ones carry their problem, so that they are rejected by name and the rest goes on.

    Raises:
        JobError: the file is not a table, has no rows, no `image` column or a column nobody reads.
    """
    table = _read_table(data, uri)
    unknown = sorted(set(table.column_names) - _COLUMNS)
    if "image" not in table.column_names or unknown:
        raise JobError(
            f"{uri}: columns {table.column_names}; expected 'image' and optionally {sorted(_COLUMNS - {'image'})}"
            + (f", unknown: {unknown}" if unknown else "")
        )
    if not table.num_rows:
        raise JobError(f"{uri}: no rows")
    return _unique(_row(i, values, storage.folder_of(uri), access) for i, values in enumerate(table.to_pylist()))


def _read_table(data: bytes, uri: str) -> pa.Table:
    suffix = uri.rsplit(".", 1)[-1].lower()
    try:
        if suffix == "parquet":
            return pq.read_table(io.BytesIO(data))
        if suffix in ("jsonl", "ndjson"):
            return pa.json.read_json(io.BytesIO(data))
        if suffix == "csv":
            return pa.csv.read_csv(io.BytesIO(data), convert_options=_csv_text())
    except pa.ArrowInvalid as e:
        raise JobError(f"{uri}: not a readable {suffix} table: {e}") from e
    raise JobError(f"{uri}: expected .parquet, .jsonl or .csv")


def _csv_text() -> Any:
    """Every column as text: an id such as 007 must stay what it is."""
    return pa.csv.ConvertOptions(column_types={name: pa.string() for name in _COLUMNS}, strings_can_be_null=True)


def _row(index: int, values: dict[str, Any], folder: str, access: AccessSettings) -> SourceRow:
    source_id = f"row-{index:06d}"
    try:
        source_id = _identifier(values.get("source_id"), source_id)
        image = _uri(values.get("image"), folder, access)
        if image is None:
            raise ItemError("row.no_image", f"row {index}: 'image' is empty")
        return SourceRow(
            source_id,
            image,
            _uri(values.get("reference"), folder, access),
            _box(values.get("box")),
            _box(values.get("reference_box")),
            clean_description(values.get("description") or ""),
            _families(values.get("families")),
            " ".join(str(values.get("licence") or "unknown").split()),
        )
    except ItemError as e:
        return SourceRow(source_id, problem=(e.reason, str(e)))


def _unique(rows: Iterable[SourceRow]) -> list[SourceRow]:
    """The later of two equal ids is a problem of its own row, under an id that cannot collide."""
    seen: set[str] = set()
    unique = []
    for index, row in enumerate(rows):
        if row.source_id in seen:
            message = f"row {index}: source_id {row.source_id!r} was given before; ids must be unique"
            row = SourceRow(f"row-{index:06d}.duplicate", problem=("row.duplicate_id", message))
        seen.add(row.source_id)
        unique.append(row)
    return unique


def _identifier(value: Any, default: str) -> str:
    if value is None or value == "":
        return default
    if not _SAFE_ID.fullmatch(str(value)) or str(value).startswith("."):
        raise ItemError("row.bad_id", f"source_id {value!r}: expected 1 to 100 of letters, digits, '.', '_' and '-'")
    return str(value)


def _uri(value: Any, folder: str, access: AccessSettings) -> str | None:
    if value is None or value == "":
        return None
    uri = storage.resolve(str(value), folder)
    storage.check_access(uri, access)
    return uri


def _box(value: Any) -> Box | None:
    if value is None or value == "":
        return None
    try:
        numbers = json.loads(f"[{value.strip().strip('[]')}]") if isinstance(value, str) else list(value)
        x0, y0, x1, y1 = (int(n) for n in numbers)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise ItemError("box.unreadable", f"box {str(value)[:80]!r}: expected four whole numbers x0,y0,x1,y1") from e
    if any(isinstance(n, float) and n != int(n) for n in numbers) or max(x1, y1) > _MAX_COORDINATE:
        raise ItemError("box.unreadable", f"box {str(value)[:80]!r}: expected whole pixels, at most {_MAX_COORDINATE}")
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise ItemError("box.inverted", f"box {value!r}: expected 0 <= x0 < x1 and 0 <= y0 < y1")
    return x0, y0, x1, y1


def _families(value: Any) -> tuple[str, ...]:
    names = value.split(";") if isinstance(value, str) else list(value or ())
    return tuple(dict.fromkeys(str(n).strip() for n in names if str(n).strip()))
