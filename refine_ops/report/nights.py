"""Nights of one run folder: the same folder goes on with every night, and each night has its own figures and trend."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

GAP_S = 6 * 3600.0
"""A pause this long between two finished items begins another night."""


def night_of(finished_at: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number of the night of each item, 0 the oldest, from the times (Unix seconds, any order) they were finished."""
    times = np.asarray(finished_at, np.float64)
    order = np.argsort(times, kind="stable")
    numbers = np.zeros(len(times), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(times[order]) > GAP_S)])[: len(times)]
    return numbers


def busy_s(finished_at: Sequence[float]) -> tuple[float, int]:
    """Seconds between the first and the last finished item of each night, summed, and the intervals counted in them."""
    times = np.sort(np.asarray(finished_at, np.float64))
    within = np.diff(times)
    within = within[within <= GAP_S]
    return float(within.sum()), len(within)


def night_name(run: str, finished_at: Sequence[float]) -> str:
    """What a night is called in the trend: its run, and the minute its first item was finished (UTC)."""
    return f"{run} {datetime.fromtimestamp(min(finished_at), UTC):%Y-%m-%d %H:%M}"
