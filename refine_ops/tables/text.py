"""JSON Lines and CSV, as spreadsheets, data frames and editors leave them."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from refine_ops.errors import JobError
from refine_ops.tables.table import Row, Table, check_columns, gathered, present, present_rows, some_readable

_LONGEST_RECORD_LINES: Final = 1000
"""Lines that one quoted CSV record may span; a quotation mark that is never closed would else swallow the file."""
_LONGEST_CELL: Final = 1 << 26
_NAMELESS: Final = re.compile(r"(Unnamed: \d+)?")


def json_lines_table(uri: str, known: Collection[str] | None, data: bytes) -> Table:
    def rows() -> Iterator[Row]:
        yield from some_readable(uri, _json_rows(uri, known, utf8(data)))

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
            yield Row(number, present(values))


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


def csv_table(uri: str, known: Collection[str] | None, data: bytes) -> Table:
    text = utf8(data).decode("utf-8", "surrogateescape")  # a byte that is not UTF-8 is its row's problem
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
        return some_readable(uri, _csv_rows(header, names, separator, _records(lines, head, separator)))

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
        yield from present_rows([(number, named)])


def utf8(data: bytes) -> bytes:
    """Without its byte order mark, and UTF-16 (Excel's 'Unicode Text') as UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")
