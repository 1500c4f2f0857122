"""Child runs of `refine-shards`, as Prefect's API knows them: created, found, looked at, cancelled.

Every call is patient: the server may be away for a while, the lanes do not need it.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling

from refine_ops.config import RefineShardsConfig
from refine_ops.errors import JobError

logger = logging.getLogger(__name__)

DEPLOYMENT: Final = "refine-shards/refine-shards"
_OUTAGE_S = 900.0
"""How long the Prefect server may be away before the parent gives up."""
_ACTIVE: Final = [
    *(StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING),
    *(StateType.PAUSED, StateType.CANCELLING),
]
_T = TypeVar("_T")


def create(config: RefineShardsConfig, name: str, key: str) -> UUID:
    """Start a lane on the deployment's work pool; the same `key` starts it once, however often the call is repeated.

    Raises:
        JobError: there is no such deployment, or the server stays away.
    """

    def ask() -> FlowRun:
        created = run_deployment(
            DEPLOYMENT,
            parameters={"config": config.model_dump(mode="json")},
            flow_run_name=name,
            tags=[run_tag(config.run)],
            timeout=0,
            idempotency_key=key,
            as_subflow=True,
        )
        assert isinstance(created, FlowRun)
        return created

    try:
        return _patiently(ask).id
    except ObjectNotFound as e:
        raise JobError(
            f"there is no deployment {DEPLOYMENT}; run: prefect deploy --prefect-file infra/prefect.yaml --all"
        ) from e


def run_tag(run: str) -> str:
    """The tag that all lanes of one run folder carry."""
    return f"refine-ops-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


def active(run: str) -> list[FlowRun]:
    """Lanes of this run folder that have not ended."""
    active = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[run_tag(run)]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE)),
    )
    return _read_runs(active)


def states(ids: Sequence[UUID]) -> dict[UUID, State]:
    """States of these runs; one that Prefect no longer knows is absent."""
    found = _read_runs(FlowRunFilter(id=FlowRunFilterId(any_=list(ids))))
    return {child.id: child.state for child in found if child.state is not None}


def _read_runs(wanted: FlowRunFilter) -> list[FlowRun]:
    """All pages, of up to 200 runs each, as the API gives them."""

    def read() -> list[FlowRun]:
        found: list[FlowRun] = []
        with get_client(sync_client=True) as client:
            while True:
                page = client.read_flow_runs(flow_run_filter=wanted, limit=200, offset=len(found))
                found += page
                if len(page) < 200:
                    return found

    return _patiently(read)


def cancel(flow_run: UUID) -> None:
    """Ask for the end of a lane."""

    def ask() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run, Cancelling())

    _patiently(ask)


def _patiently(call: Callable[[], _T]) -> _T:
    """Repeat an API call while the server is away.

    Raises:
        JobError: it stayed away for a quarter of an hour.
    """
    deadline, pause = time.monotonic() + _OUTAGE_S, 1.0
    while True:
        try:
            return call()
        except (httpx.TransportError, PrefectHTTPStatusError) as e:
            if isinstance(e, PrefectHTTPStatusError) and e.response.status_code < 500:
                raise
            if time.monotonic() > deadline:
                raise JobError(
                    f"the Prefect server has been away for {_OUTAGE_S:.0f} s ({e}); the lanes go on by themselves. "
                    "Run the same command again once it is back."
                ) from e
            logger.warning("the Prefect server does not answer (%s); trying again in %.0f s", e, pause)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)
