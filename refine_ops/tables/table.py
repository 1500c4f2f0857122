"""Rows of named values that know their place, and what is the same for every format."""

import difflib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from refine_ops.cells import text_of
from refine_ops.errors import JobError


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


def check_columns(where: str, names: Iterable[str], known: Collection[str] | None) -> None:
    """Raises: JobError -- a column is not known; the message suggests the one that was meant. None: all may come."""
    if known is None:
        return
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name.strip().lower(), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise JobError(f"{where}: unknown column {name!r}{hint} Known are: {', '.join(known)}")


def some_readable(uri: str, rows: Iterator[Row]) -> Iterator[Row]:
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


def present_rows(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Row]:
    """Rows that say something, absent values taken out."""
    for number, values in rows:
        if found := present(values):
            yield Row(number, found)


def present(values: dict[str, Any]) -> dict[str, Any]:
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
        return present(value)
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
