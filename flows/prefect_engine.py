"""Steps as Prefect's tasks, with artifacts, events and logs on its server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from flows.progress import ShowShare
from flows.steps.engine import Engine

P = ParamSpec("P")
R = TypeVar("R")


class UnderPrefect:
    """The engine inside a flow run."""

    def step(self, function: Callable[P, R]) -> Callable[P, R]:
        # A site may persist results by default; what a step finds depends on the stores, not on its arguments alone.
        return task(cache_policy=NO_CACHE, persist_result=False)(function)

    def note(self, text: str) -> None:
        get_run_logger().info(text)

    def show(self, key: str, markdown: str, description: str | None = None) -> None:
        create_markdown_artifact(markdown, key=key, description=description)

    def show_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        create_table_artifact([dict(row) for row in rows], key=key)

    def show_progress(self, key: str) -> ShowShare | None:
        artifact: UUID | None = None

        def show(percent: float, line: str) -> None:
            nonlocal artifact
            if artifact is not None:
                update_progress_artifact(artifact, percent, description=line)
            elif isinstance(created := create_progress_artifact(percent, key=key, description=line), UUID):
                artifact = created

        return show

    def emit(self, event: str, resource: Mapping[str, str], payload: Mapping[str, Any]) -> None:
        emit_event(event, dict(resource), payload=dict(payload))


UNDER_PREFECT: Engine = UnderPrefect()
step = UNDER_PREFECT.step
"""Decorator of a step that only Prefect's flows have."""
