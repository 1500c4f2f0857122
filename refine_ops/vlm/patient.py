"""One HTTP request made patiently: what passes is waited for, what stays down stops the job."""

import random
import time
from collections.abc import Callable
from typing import Final, Protocol

import httpx

from refine_ops.errors import JobError

_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_MAX_PAUSE_S: Final = 60.0


class EndpointDown(JobError):
    """The endpoint did not answer within the allowed attempts, or refuses the credentials or every request."""


class Patience(Protocol):
    """How often a request is made, and the first pause in s; it doubles, and Retry-After is honoured."""

    @property
    def requests(self) -> int: ...

    @property
    def backoff_s(self) -> float: ...


def ask_patiently(
    send: Callable[[], httpx.Response], patience: Patience, name: str, on_retry: Callable[[], None] = lambda: None
) -> httpx.Response:
    """The first response that is not one of a busy or broken server.

    Raises:
        EndpointDown: there was none in `patience.requests` attempts.
    """
    problem = ""
    for attempt in range(patience.requests):
        pause_s = patience.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
        try:
            response = send()
        except httpx.TransportError as e:
            problem = f"{type(e).__name__}: {e}"
        else:
            if response.status_code not in _RETRIED:
                return response
            problem = f"HTTP {response.status_code}"
            pause_s = max(pause_s, _retry_after_s(response))
        if attempt + 1 < patience.requests:
            on_retry()
            time.sleep(min(pause_s, _MAX_PAUSE_S))
    raise EndpointDown(
        f"{name}: no answer in {patience.requests} attempts, last: {problem}; when the endpoint is back, run the same "
        "command again to go on"
    )


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0  # an HTTP date: the exponential pause does
