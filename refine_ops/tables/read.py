"""Tables as people keep them -- Parquet, JSON Lines, CSV -- as rows of named values that know their place.

What a tool did to the table on its way is undone here, once for manifests, sources, annotations and regions:

- CSV separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or without a byte order mark
- blank lines, rows of empty cells, index columns of pandas: left out
- empty cells, null, NaN and blank text: the value is absent
- categories, dates, decimals and bytes of Parquet: their text or number; text itself is never taken for anything else

A row that cannot be read is a row with a `problem`; the rest of the table is read all the same.
"""

from collections.abc import Collection
from typing import Final

from refine_ops import storage
from refine_ops.errors import ItemError, JobError
from refine_ops.tables.parquet_file import parquet_table
from refine_ops.tables.table import Table
from refine_ops.tables.text import csv_table, json_lines_table

_SUFFIXES: Final = ".parquet, .jsonl or .csv"


def open_table(uri: str, known: Collection[str] | None, data: bytes | None = None) -> Table:
    """The table at `uri`, or in `data` if its bytes are at hand; columns that are not `known` are refused, if any are.

    Raises:
        JobError: the file is missing, is no such table, or has a column that nobody reads; so do `rows` and
            `gathered` where columns or pages come to light only then, and where no row can be read at all.
    """
    name = uri.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            return parquet_table(uri, known, data)
        if name.endswith((".jsonl", ".ndjson")):
            return json_lines_table(uri, known, storage.read(uri) if data is None else data)
        if name.endswith((".csv", ".tsv")):
            return csv_table(uri, known, storage.read(uri) if data is None else data)
    except ItemError as e:
        raise JobError(str(e)) from e
    raise JobError(f"{uri}: expected a name ending in {_SUFFIXES}{_hint(name)}")


def _hint(name: str) -> str:
    if name.endswith((".xlsx", ".xls", ".ods")):
        return "; save the sheet as 'CSV UTF-8'"
    if name.endswith(".json"):
        return "; JSON Lines have one object a line, and no list around them"
    return ""


def numbering(uri: str) -> str:
    """How `Row.number` counts in this file, for people."""
    return "rows count from 0" if place(uri, 0) == "row 0" else "rows are lines of the file, from 1"


def place(uri: str, number: int) -> str:
    """Where a row stands, in the words of the file's format."""
    return f"{'row' if uri.lower().endswith(('.parquet', '.pq')) else 'line'} {number}"
