"""Shared fixtures: real photos, and a home for Prefect that no test run shares with the user's."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from tests.support import order
from tests.support.programs import left_out
from tests.support.starts import nothing_starts

# Before anything imports Prefect: no telemetry, a database of its own, few log lines.
os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="refine-ops-prefect-"))
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")


# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # the order below is better


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.longest_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return order.scheduler(config, log)


def pytest_sessionfinish() -> None:
    """Prefect's servers take leave at exit, when pytest has closed the stream they would log to."""
    logging.raiseExceptions = False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `python -m tests quick` leaves out as a whole module it does not even import: that is Prefect and more."""
    if collection_path.suffix != ".py" or "not processes and not long" not in config.getoption("markexpr"):
        return None
    marks = [line for line in collection_path.read_text().splitlines() if line.startswith("pytestmark = ")]
    return True if any("mark.processes" in line or "mark.long" in line for line in marks) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _guard(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _guard(item):
        return (yield)


def _guard(item: pytest.Item) -> AbstractContextManager[None]:
    return nullcontext() if item.get_closest_marker("processes") else nothing_starts(item.nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    yield  # outermost, so that it comes below pytest's own list of every test that was skipped
    reports = terminalreporter.getreports("skipped")
    line = left_out(str(report.longrepr) for report in reports)
    if line:
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photo, `uint8 (512, 512, 3)`: the astronaut (NASA, public domain)."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture
def prefect_api() -> Iterator[None]:
    """Prefect's API with an empty database, in a process of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
