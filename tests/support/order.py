"""In which order files are tested, and which share a process, where several processes test.

Two processes end together only if what takes longest begins first; pytest-xdist's own order, most tests first, leaves
the one test that runs for a minute to the end, when the other process has nothing left. Which are long: `--durations`.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_LONGEST = (
    *("flows/test_lanes.py", "flows/test_deploy.py", "faults/test_kill.py", "faults/test_poison.py"),
    *("flows/test_refine_batch.py", "flows/test_shown_commands.py", "flows/test_ends.py", "flows/test_many_nights.py"),
    *("flows/test_nights.py", "judge/test_shipped_gates.py", "flows/test_iam.py", "flows/test_wrong_uses.py"),
)
_ONE_SERVER = ("flows/test_lanes.py", "flows/test_deploy.py")
"""They share the session's Prefect site, which takes half a minute to deploy: once, if one process has both."""


def _named(nodeid: str, names: Iterable[str]) -> str | None:
    path = PurePosixPath(nodeid.split("::")[0]).as_posix()
    return next((name for name in names if path == f"tests/{name}"), None)


def longest_first(items: list[pytest.Item]) -> None:
    """Bring the files that take longest to the front, and leave all others, and each file's tests, as they are."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(_named(item.nodeid, _LONGEST) or "", len(place)))


class ByServer(LoadFileScheduling):
    """A file's tests are run by one process, and so are all files that share a server."""

    def _split_scope(self, nodeid: str) -> str:
        return "one server" if _named(nodeid, _ONE_SERVER) else str(super()._split_scope(nodeid))


def scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """For `--dist loadfile`; None leaves the other ways as they are."""
    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None
