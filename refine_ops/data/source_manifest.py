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

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refine_ops import storage
from refine_ops.cells import pixels_of, text_of
from refine_ops.config import AccessSettings
from refine_ops.detect.objects import clean_description
from refine_ops.errors import ItemError, JobError
from refine_ops.records import Box
from refine_ops.tables.read import open_table, place
from refine_ops.tables.table import Row

_COLUMNS = ("image", "reference", "box", "reference_box", "description", "families", "licence", "source_id")
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


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
        JobError: the file is not a table, has no rows, no `image` at all or a column nobody reads.
    """
    table = open_table(uri, _COLUMNS, data)
    if table.columns and "image" not in table.columns:
        raise JobError(f"{uri}: no column 'image'; there are {', '.join(table.columns)}")
    rows = _unique(_row(i, row, uri, access) for i, row in enumerate(table.rows()))
    if not rows:
        raise JobError(f"{uri}: no rows")
    return rows


def _row(index: int, row: Row, uri: str, access: AccessSettings) -> SourceRow:
    source_id, values, folder = f"row-{index:06d}", row.values, storage.folder_of(uri)
    if row.problem:
        return SourceRow(source_id, problem=("row.unreadable", row.problem))
    try:
        source_id = _identifier(values.get("source_id"), source_id)
        image = _uri(values.get("image"), folder, access)
        if image is None:
            raise ItemError("row.no_image", f"{place(uri, row.number)}: 'image' is empty")
        return SourceRow(
            source_id,
            image,
            _uri(values.get("reference"), folder, access),
            _box(values.get("box")),
            _box(values.get("reference_box")),
            clean_description(text_of(values.get("description", ""))),
            _families(text_of(values.get("families"))),
            _one_line(text_of(values.get("licence", "unknown"))),
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
    if value is None:
        return default
    name = text_of(value)
    if not isinstance(name, str) or not _SAFE_ID.fullmatch(name) or name.startswith("."):
        raise ItemError("row.bad_id", f"source_id {name!r}: expected 1 to 100 of letters, digits, '.', '_' and '-'")
    return name


def _uri(value: Any, folder: str, access: AccessSettings) -> str | None:
    if value is None:
        return None
    uri = storage.spelled_as_stored(storage.resolve(str(value), folder))
    storage.check_access(uri, access)
    return uri


def _box(value: Any) -> Box | None:
    if value is None:
        return None
    corners = pixels_of(value)
    if corners is None:
        raise ItemError("box.unreadable", f"box {str(value)[:80]!r}: expected four whole numbers x0,y0,x1,y1")
    x0, y0, x1, y1 = corners
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise ItemError("box.inverted", f"box {value!r}: expected 0 <= x0 < x1 and 0 <= y0 < y1")
    return x0, y0, x1, y1


def _families(value: Any) -> tuple[str, ...]:
    names = value.split(";") if isinstance(value, str) else list(value or ())
    return tuple(dict.fromkeys(str(n).strip() for n in names if str(n).strip()))


def _one_line(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
