"""The fault table: every test that injects a fault adds a row, and the run ends with the table."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class Row:
    """One injected fault, what is promised, and what was counted after the last start."""

    fault: str
    promise: str
    items: int
    done: int
    dead: int
    lost: int
    duplicated: int


_ROWS: list[Row] = []


@pytest.fixture
def table() -> list[Row]:
    return _ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    write = terminalreporter.write_line
    write("")
    write("| fault | outcome | items | done | dead | lost | duplicated |")
    write("| --- | --- | --- | --- | --- | --- | --- |")
    for row in _ROWS:
        counts = (row.items, row.done, row.dead, row.lost, row.duplicated)
        write(f"| {row.fault} | {row.promise} | {' | '.join(map(str, counts))} |")
