"""One try at one sample: which stage it is in, what it has made so far, and what the stages took."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from refine_ops.data.plan import PlannedSample
from refine_ops.data.stages.sample import Sample
from refine_ops.records import Mask, U8Image
from refine_ops.vlm.questions import Usage


@dataclass(slots=True)
class StageTimes:
    """Wall-clock seconds and calls per stage, summed over a shard."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class SampleAttempt:
    """`stage` is the one entered last: a rejection is filed under it. `images` are kept when the sample is rejected."""

    times: StageTimes
    stage: str = ""
    images: dict[str, U8Image | Mask] = field(default_factory=dict)

    @contextmanager
    def enter(self, stage: str) -> Iterator[None]:
        self.stage = stage
        started = time.perf_counter()
        try:
            yield
        finally:
            self.times.seconds[stage] += time.perf_counter() - started
            self.times.calls[stage] += 1


class Maker(Protocol):
    """Turns a planned sample into one; deterministic in what is planned."""

    def make(self, planned: PlannedSample, attempt: SampleAttempt) -> Sample:
        """Raises ItemError where it yields none."""

    @property
    def usage(self) -> Usage:
        """Questions asked to VLMs so far."""
