"""The fault table: every test that injects a fault adds a row, and the run ends with the table."""

from collections.abc import Callable
from dataclasses import astuple

import pytest

from tests.support.settle import AddRow


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> AddRow:
    """Adds a row; it travels with the test's report, as tests may run in other processes."""
    return lambda row: record_property("fault", " | ".join(map(str, astuple(row))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    rows = [text for report in reports for name, text in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.write_line("\n| fault | outcome | items | done | dead | lost | duplicated |")
        terminalreporter.write_line("| --- | --- | --- | --- | --- | --- | --- |")
        for row in rows:
            terminalreporter.write_line(f"| {row} |")
