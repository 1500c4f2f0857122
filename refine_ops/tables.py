"""Tables as people keep them -- Parquet, JSON Lines, CSV -- as rows of named values that know their place.

What a tool did to the table on its way is undone here, once for manifests, sources, annotations and regions:

- CSV separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or without a byte order mark
- blank lines, rows of empty cells, index columns of pandas: left out
- empty cells, null, NaN and blank text: the value is absent
- categories, dates, decimals and bytes of Parquet: their text or number; text itself is never taken for anything else

A row that cannot be read is a row with a `problem`; the rest of the table is read all the same.
"""

import csv
import difflib
import io
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.cells import text_of
from refine_ops.errors import ItemError, JobError

_SUFFIXES: Final = ".parquet, .jsonl or .csv"
_BATCH_ROWS: Final = 8192
_LONGEST_RECORD_LINES: Final = 1000
"""Lines that one quoted CSV record may span; a quotation mark that is never closed would else swallow the file."""
_LONGEST_CELL: Final = 1 << 26
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")
_NAMELESS: Final = re.compile(r"(Unnamed: \d+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `number` is what the person's editor shows: the line in a text file from 1, where a CSV's header is
    line 1, and the position in a Parquet file from 0. Absent values are not in `values`; `problem` says why a row
    cannot be read, and its values are empty then."""

    number: int
    values: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table, opened: its columns (None where each row of JSON Lines names its own) and a way to its rows."""

    columns: tuple[str, ...] | None
    rows: Callable[[], Iterator[Row]]
    gathered: Callable[[str], Iterator[Row]]
    """All rows, those of equal value in the given column brought together at the place of the first, in order."""


def open_table(uri: str, known: Collection[str] | None, data: bytes | None = None) -> Table:
    """The table at `uri`, or in `data` if its bytes are at hand; columns that are not `known` are refused, if any are.

    Raises:
        JobError: the file is missing, is no such table, or has a column that nobody reads; so do `rows` and
            `gathered` where columns or pages come to light only then, and where no row can be read at all.
    """
    name = uri.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            return _parquet(uri, known, data)
        if name.endswith((".jsonl", ".ndjson")):
            return _json_lines(uri, known, storage.read(uri) if data is None else data)
        if name.endswith((".csv", ".tsv")):
            return _csv(uri, known, storage.read(uri) if data is None else data)
    except ItemError as e:
        raise JobError(str(e)) from e
    hint = "; save the sheet as 'CSV UTF-8'" if name.endswith((".xlsx", ".xls", ".ods")) else ""
    raise JobError(f"{uri}: expected a name ending in {_SUFFIXES}{hint}")


def numbering(uri: str) -> str:
    """How `Row.number` counts in this file, for people."""
    return "rows count from 0" if place(uri, 0) == "row 0" else "rows are lines of the file, from 1"


def place(uri: str, number: int) -> str:
    """Where a row stands, in the words of the file's format."""
    return f"{'row' if uri.lower().endswith(('.parquet', '.pq')) else 'line'} {number}"


def check_columns(where: str, names: Iterable[str], known: Collection[str] | None) -> None:
    """Raises: JobError -- a column is not known; the message suggests the one that was meant. None: all may come."""
    if known is None:
        return
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name.strip().lower(), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise JobError(f"{where}: unknown column {name!r}{hint} Known are: {', '.join(known)}")


def _parquet(uri: str, known: Collection[str] | None, data: bytes | None) -> Table:
    if data is None and storage.is_s3(uri):
        data = storage.read(uri)
    try:
        file = pq.ParquetFile(uri if data is None else pa.BufferReader(data))
    except FileNotFoundError as e:
        raise storage.missing(uri) from e
    except (pa.ArrowException, OSError) as e:
        raise JobError(f"{uri}: not a readable Parquet file: {e}") from e
    index = {n for n in (file.schema_arrow.pandas_metadata or {}).get("index_columns", ()) if isinstance(n, str)}
    names = [n for n in file.schema_arrow.names if n in (known or ()) or not (n in index or _PANDAS_INDEX.fullmatch(n))]
    check_columns(uri, names, known)

    def rows() -> Iterator[Row]:
        with _readable(uri):
            batches = (batch.to_pylist() for batch in file.iter_batches(_BATCH_ROWS, columns=names))
            yield from _present_rows(enumerate(itertools.chain.from_iterable(batches)))

    def gathered(column: str) -> Iterator[Row]:
        with _readable(uri):
            table = _without_views(file.read(columns=names))
        order = _gathering(table[column])
        for start in range(0, len(order), _BATCH_ROWS):
            chunk = order[start : start + _BATCH_ROWS]
            yield from _present_rows(zip(chunk.tolist(), table.take(pa.array(chunk)).to_pylist(), strict=True))

    return Table(tuple(names), rows, gathered)


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise JobError(f"{uri}: damaged Parquet file: {e}") from e


def _without_views(table: pa.Table) -> pa.Table:
    """Text in Arrow's view layout, which polars writes and `take` does not know, in the usual one."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return table.cast(pa.schema([field.with_type(plain.get(field.type, field.type)) for field in table.schema]))


def _gathering(column: pa.ChunkedArray) -> Any:
    """Row numbers in which equal values follow each other: a stable sort on first appearance."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)  # its own codes may be unsigned, or differ between row groups
    codes = pc.dictionary_encode(column.combine_chunks()).indices.cast(pa.int64())
    return np.argsort(np.asarray(codes.fill_null(-1)), kind="stable")


def _json_lines(uri: str, known: Collection[str] | None, data: bytes) -> Table:
    def rows() -> Iterator[Row]:
        yield from _some_readable(uri, _json_rows(uri, known, _utf8(data)))

    return Table(None, rows, lambda column: gathered(rows(), column))


def _json_rows(uri: str, known: Collection[str] | None, data: bytes) -> Iterator[Row]:
    for number, line in enumerate(data.splitlines(), 1):  # of bytes: U+2028 ends no line
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode())
        except UnicodeDecodeError as e:
            yield Row(number, {}, f"line {number}: not UTF-8: {e}")
            continue
        except (ValueError, RecursionError) as e:
            yield Row(number, {}, f"line {number}: not JSON: {e}")
            continue
        if not isinstance(values, dict):
            said = f"expected an object, got {type(values).__name__}; write one object a line, without a list around"
            yield Row(number, {}, f"line {number}: {said}")
            continue
        check_columns(f"{uri}, line {number}", values, known)
        if any(value is not None for value in values.values()):  # an empty text was written by somebody
            yield Row(number, _present(values))


class _Lines:
    """Lines for the csv reader, which may be sent back to one and not past another."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.at, self.stop = lines, 0, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.at >= min(self.stop, len(self.lines)):
            raise StopIteration
        self.at += 1
        return self.lines[self.at - 1]


def _csv(uri: str, known: Collection[str] | None, data: bytes) -> Table:
    text = _utf8(data).decode("utf-8", "surrogateescape")  # a byte that is not UTF-8 is its row's problem
    lines = list(io.StringIO(text, newline=""))
    head = next((i for i, line in enumerate(lines) if line.strip()), None)
    separator = None
    if head is not None and (said := re.fullmatch(r"sep=(.)\s*", lines[head])):  # Excel's own first line
        separator, head = said[1], head + 1
    if head is None or head >= len(lines):
        return Table((), lambda: iter(()), lambda column: iter(()))
    separator = separator or _separator(lines[head])
    header: list[str] = []
    for row in _records(lines, head, separator):
        if isinstance(row[1], str):
            raise JobError(f"{uri}: the header cannot be read: {row[1]}")
        header, head = [name.strip() for name in row[1]], row[2]
        break
    names = [name for name in header if name in (known or ()) or not _NAMELESS.fullmatch(name)]
    if len(set(names)) < len(names):
        raise JobError(f"{uri}: two columns have the same name: {', '.join(names)}")
    check_columns(uri, names, known)

    def rows() -> Iterator[Row]:
        return _some_readable(uri, _csv_rows(header, names, separator, _records(lines, head, separator)))

    return Table(tuple(names), rows, lambda column: gathered(rows(), column))


def _separator(header: str) -> str:
    """Of comma, semicolon and tab the one that makes the most columns."""
    return max(",;\t", key=lambda c: len(next(csv.reader([header], delimiter=c))))


def _records(lines: list[str], start: int, separator: str) -> Iterator[tuple[int, list[str] | str, int]]:
    """First line from 1, cells or what is wrong with them, and the index of the line after; from line index `start`."""
    csv.field_size_limit(_LONGEST_CELL)
    feed = _Lines(lines)
    feed.at = start
    reader = csv.reader(feed, delimiter=separator, skipinitialspace=True, strict=True)
    while feed.at < len(lines):
        first = feed.at
        feed.stop = first + _LONGEST_RECORD_LINES
        try:
            cells = next(reader)
        except csv.Error as e:
            feed.at = first + 1  # what follows is read again, as rows of their own
            unclosed = "a quotation mark is never closed" if "end of data" in str(e) else f"not CSV: {e}"
            yield first + 1, f'line {first + 1}: {unclosed}; write "" for a quotation mark inside quotes', first + 1
            continue
        yield first + 1, cells, feed.at


def _csv_rows(
    header: list[str], names: list[str], separator: str, records: Iterable[tuple[int, list[str] | str, int]]
) -> Iterator[Row]:
    for number, cells, _ in records:
        if isinstance(cells, str):
            yield Row(number, {}, cells)
            continue
        problem = ""
        beyond = [c for i, c in enumerate(cells) if i >= len(header) or (i > 0 and header[i] not in names)]
        if any(c.strip() for c in beyond):
            problem = f"{len(cells)} cells, the header names {len(names)}; quote cells that hold {separator!r}"
        elif any("\udc80" <= c <= "\udcff" for cell in cells for c in cell if not cell.isascii()):
            problem = "not UTF-8; save the file as 'CSV UTF-8'"
        if problem:
            yield Row(number, {}, f"line {number}: {problem}")
            continue
        named = {name: cell for name, cell in zip(header, cells, strict=False) if name in names}
        yield from _present_rows([(number, named)])


def _utf8(data: bytes) -> bytes:
    """Without its byte order mark, and UTF-16 (Excel's 'Unicode Text') as UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _some_readable(uri: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, unless every one is a problem: then the file is no such table."""
    problems: list[Row] = []
    for row in rows:
        if not row.problem:
            yield from problems
            yield row
            yield from rows
            return
        problems.append(row)
    if problems:
        raise JobError(f"{uri}, {problems[0].problem}")


def gathered(rows: Iterable[Row], column: str) -> Iterator[Row]:
    """Rows of equal value in `column` (7, 7.0 and "7" are equal) brought together at the place of the first."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        value = text_of(row.values.get(column))
        groups.setdefault(value if isinstance(value, str) else ("alone", row.number), []).append(row)
    return itertools.chain.from_iterable(groups.values())


def _present_rows(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Row]:
    """Rows that say something, absent values taken out."""
    for number, values in rows:
        if found := _present(values):
            yield Row(number, found)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in values.items() if not _absent(value)}


def _absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    """What JSON could have said: types that only Parquet has become text or numbers, also inside structs."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return _present(value)
    if isinstance(value, list):
        return [_plain(v) for v in value] if value and not isinstance(value[0], int | float) else value
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, UUID | time) else value
