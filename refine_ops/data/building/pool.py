"""Worker processes for shards: who works on what is known even when a worker dies, and none outlives the parent."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import cv2

from refine_ops import storage
from refine_ops.data.building.makers import make_maker
from refine_ops.data.building.shard import ShardReport, build_shard
from refine_ops.data.config import BuildDatasetConfig
from refine_ops.data.plan import PlannedSample, Shards
from refine_ops.data.stages.attempt import Maker
from refine_ops.errors import RefineError
from refine_ops.job.child import die_with_parent


class WorkerDied(RefineError):
    """A worker was killed or crashed. `samples` were in the works somewhere: one of them may be why."""

    def __init__(self, samples: list[str]) -> None:
        super().__init__(f"a worker died; in the works: {samples}")
        self.samples = samples


def run_shards(
    config: BuildDatasetConfig, shards: Shards, poison: frozenset[str], workers: int
) -> Iterator[ShardReport]:
    """Build shards on `workers` processes, yielding each as it is committed; samples named in `poison` are rejected.

    Raises:
        WorkerDied: what was being worked on is in it; shards not yielded are to be done again.
        JobError: what a worker met that is no sample's fault.
    """
    context = multiprocessing.get_context("spawn")
    ranks: SimpleQueue[int] = context.SimpleQueue()
    for rank in range(workers):
        ranks.put(rank)
    working_on = context.Array("q", [-1] * workers, lock=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (config, ranks, working_on, poison))
    try:
        yield from _drain(pool, shards, ahead=2 * workers)
    except BrokenProcessPool as e:
        by_index = {c.index: c.sample_id for shard in shards.values() for c in shard}
        raise WorkerDied([by_index[i] for i in working_on if i >= 0]) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _drain(pool: ProcessPoolExecutor, shards: Shards, ahead: int) -> Iterator[ShardReport]:
    """At most `ahead` shards are handed out at a time, so that a large plan is not copied at once."""
    waiting = iter(sorted(shards.items()))
    running: set[Future[ShardReport]] = set()
    while True:
        while len(running) < ahead and (shard := next(waiting, None)) is not None:
            running.add(pool.submit(_work, *shard))
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield future.result()


@dataclass(slots=True)
class _Worker:
    """What a pool's calls share in one process. The maker is made by the first, so that its errors reach the parent."""

    config: BuildDatasetConfig
    rank: int
    working_on: Any
    poison: frozenset[str]
    maker: Maker | None = None


_worker: _Worker | None = None


def _start_worker(
    config: BuildDatasetConfig, ranks: "SimpleQueue[int]", working_on: Any, poison: frozenset[str]
) -> None:
    global _worker
    die_with_parent()
    cv2.setNumThreads(1)
    _worker = _Worker(config, ranks.get(), working_on, poison)


def _work(part: int, shard: Sequence[PlannedSample]) -> ShardReport:
    worker = _worker
    assert worker is not None
    if worker.maker is None:
        worker.maker = make_maker(worker.config, worker.rank)

    def note(planned: PlannedSample | None) -> None:
        worker.working_on[worker.rank] = -1 if planned is None else planned.index

    out = storage.resolve(worker.config.out)
    return build_shard(out, part, shard, worker.maker, worker.poison, note)
