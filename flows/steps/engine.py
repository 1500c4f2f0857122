"""Where a flow's steps run, and who sees them: plainly in this process, or under Prefect."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from flows.progress import ShowShare

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Engine(Protocol):
    """What steps ask of their surroundings; nothing they compute depends on it."""

    def step(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, as a step that can be seen by itself. It runs in the caller's thread, once for every call."""

    def note(self, text: str) -> None:
        """A line in the run's own log."""

    def show(self, key: str, markdown: str, description: str | None = None) -> None:
        """A page for people."""

    def show_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table for people."""

    def show_progress(self, key: str) -> ShowShare | None:
        """Where else than on the terminal progress is shown."""

    def emit(self, event: str, resource: Mapping[str, str], payload: Mapping[str, Any]) -> None:
        """An event that automations can act on."""


class InProcess:
    """No server: steps are calls, notes are log lines, and what people see is in the run folder."""

    def step(self, function: Callable[P, R]) -> Callable[P, R]:
        return function

    def note(self, text: str) -> None:
        logger.info(text)

    def show(self, key: str, markdown: str, description: str | None = None) -> None:
        pass

    def show_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def show_progress(self, key: str) -> ShowShare | None:
        return None

    def emit(self, event: str, resource: Mapping[str, str], payload: Mapping[str, Any]) -> None:
        pass


IN_PROCESS: Engine = InProcess()
