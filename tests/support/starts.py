"""A test starts a process, a server or a browser only if it says so: `@pytest.mark.processes`.

`python -m tests quick` leaves those tests out, so a test without the mark must not start anything: it fails here if it
does. Watched are Python's audit events and multiprocessing's own spawn; threads as such are free.
"""

import multiprocessing.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3.util.connection  # noqa: F401 - binds a socket once, as it is imported, to learn of IPv6

_EVENTS = {
    "os.exec": "a program in this process's place",
    "os.fork": "a process",
    "os.forkpty": "a process",
    "os.posix_spawn": "a process",
    "os.spawn": "a process",
    "os.system": "a process",
    "socket.bind": "a server",
    "subprocess.Popen": "a process",
}
_LOOK_UPS = {"ldconfig", "gcc", "cc", "ld", "objdump", "lscpu", "uname"}
"""What `ctypes.util.find_library` and `platform` ask as a library is imported, whichever test imports it first."""
_watched: list[str] = []  # the test that is running and has no mark
_seen: list[str] = []  # what its threads started: raising there would leave the test waiting for them
_spawn = multiprocessing.util.spawnv_passfds


def _refuse(what: str, detail: object) -> None:
    if not _watched:
        return
    message = f"{_watched[-1]} starts {what} ({detail}): mark it with @pytest.mark.processes, or do without"
    if threading.current_thread() is threading.main_thread():
        pytest.fail(message)
    _seen.append(message)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS and not (event == "subprocess.Popen" and Path(str(arguments[0])).name in _LOOK_UPS):
        _refuse(_EVENTS[event], arguments[:2])


def _watched_spawn(path: str, arguments: list[str], passed: list[int]) -> int:
    _refuse("a process", arguments)  # it calls the system's fork_exec directly, which no audit event tells
    return _spawn(path, arguments, passed)


sys.addaudithook(_heard)
multiprocessing.util.spawnv_passfds = _watched_spawn  # type: ignore[attr-defined]


@contextmanager
def nothing_starts(test: str) -> Iterator[None]:
    """Whatever starts a process or a server meanwhile fails with the name of `test`."""
    _watched.append(test)
    try:
        yield
    finally:
        _watched.pop()
        seen = _seen.copy()
        _seen.clear()
    if seen:
        pytest.fail(seen[0])
