"""Flights that wait for the model, gathered into batches."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

from refine_ops.job.rank.in_flight import Flight


class Buckets:
    """Flights by what may share a batch, those that have waited longest first. Callers hold a lock of their own.

    Args:
        batch_size: Items per batch of a bucket; it may shrink while the run goes on.
    """

    def __init__(self, batch_size: Callable[[Any], int]) -> None:
        self._batch_size = batch_size
        self._waiting: dict[Hashable, list[Flight]] = defaultdict(list)

    def add(self, flight: Flight) -> None:
        assert flight.prepared is not None
        self._waiting[flight.prepared.bucket].append(flight)

    def pop_full(self) -> list[Flight]:
        """A whole batch, or nothing."""
        full = [bucket for bucket, flights in self._waiting.items() if len(flights) >= self._batch_size(bucket)]
        return self._pop(min(full, key=self._since)) if full else []

    def pop_oldest(self) -> list[Flight]:
        """Who has waited longest, with whom may share its batch; nothing if nobody waits."""
        return self._pop(min(self._waiting, key=self._since)) if self._waiting else []

    def _since(self, bucket: Hashable) -> float:
        return self._waiting[bucket][0].waiting_since

    def _pop(self, bucket: Hashable) -> list[Flight]:
        flights, size = self._waiting[bucket], self._batch_size(bucket)
        batch, rest = flights[:size], flights[size:]
        if rest:
            self._waiting[bucket] = rest
        else:
            del self._waiting[bucket]
        return batch
