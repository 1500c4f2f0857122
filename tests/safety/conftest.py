"""What tests of the surroundings found is printed at the end of the run, also when they ran in other processes."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    for name, text in (p for report in reports for p in report.user_properties):
        if name == "summary":
            terminalreporter.write_line(f"\n{text}")
