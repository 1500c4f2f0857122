"""The fault table: every test that injects a fault adds a row, and the run ends with the table."""

from collections.abc import Callable, Iterator
from dataclasses import astuple

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.support.servers.s3_proxy import Proxy, s3_proxy
from tests.support.settle import AddRow


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> AddRow:
    """Adds a row; it travels with the test's report, as tests may run in other processes."""
    return lambda row: record_property("fault", " | ".join(map(str, astuple(row))))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A store that fails on demand, with an empty bucket `lake`; the environment names it."""
    boto3.client("s3", endpoint_url=moto).create_bucket(Bucket="lake")
    with s3_proxy(moto) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
        proxy.faults.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    rows = [text for report in reports for name, text in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.write_line("\n| fault | outcome | items | done | dead | lost | duplicated |")
        terminalreporter.write_line("| --- | --- | --- | --- | --- | --- | --- |")
        for row in rows:
            terminalreporter.write_line(f"| {row} |")
