"""The test command's own promises: nothing starts unseen, and a missing program is said, not hidden."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.support.programs import left_out, program
from tests.support.starts import nothing_starts


def _child() -> None:
    multiprocessing.get_context("spawn").Process(target=print).start()


def _server() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))


STARTS = {
    "run": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "shell": lambda: os.system("true"),
    "fork": os.fork,
    "child": _child,
    "server": _server,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_test_without_the_mark_cannot_start_anything(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"cannot_start_anything\[.*@pytest.mark.processes"):
        start()


def test_a_server_in_a_thread_is_told_once_the_test_is_over() -> None:
    def inner() -> None:
        with nothing_starts("inner"):
            thread = threading.Thread(target=_server)
            thread.start()
            thread.join()

    with pytest.raises(pytest.fail.Exception, match="inner starts a server"):
        inner()


@pytest.mark.processes
def test_a_test_with_the_mark_can() -> None:
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0


def test_a_missing_program_skips_and_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="djpeg: apt-get install libjpeg-turbo-progs"):
        program("djpeg")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="chromium: apt-get install chromium"):
        program("chromium")


def test_the_closing_line_counts_and_names_what_to_install() -> None:
    reasons = ["needs the program djpeg: ..."] * 3 + ["('t.py', 3, 'Skipped: needs the program chromium: ...')", "slow"]
    assert left_out(["slow"]) is None
    assert left_out(reasons) == (
        "left out: 1 that need chromium and 3 that need djpeg; apt-get install chromium libjpeg-turbo-progs"
    )
