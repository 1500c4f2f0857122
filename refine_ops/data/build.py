"""Building a set: shards over processes, each committed as one part. Resuming is skipping the parts that exist.

The parent hands out shards; each worker loads its models once and dies with its parent. Neither the number of workers
nor a restart changes a byte of samples, rejects or images.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.queues import SimpleQueue

import cv2

from refine_ops import storage
from refine_ops.data.attempt import Maker
from refine_ops.data.config import BuildDatasetConfig, ManifestSource
from refine_ops.data.drawn import DrawnMaker
from refine_ops.data.folder import Shards
from refine_ops.data.photo import PhotoMaker
from refine_ops.data.plan import Candidate
from refine_ops.data.shard import ShardReport, build_shard
from refine_ops.data.stages import load_stages
from refine_ops.errors import JobError


def build(config: BuildDatasetConfig, todo: Shards) -> Iterator[ShardReport]:
    """Build the shards that are to do, yielding each as it is committed.

    Raises:
        JobError: what a worker met that is no sample's fault, or a worker died; run again to go on.
    """
    if config.workers == 1:
        maker = make_maker(config, rank=0)
        for part, candidates in sorted(todo.items()):
            yield build_shard(storage.resolve(config.out), part, candidates, maker)
        return
    context = multiprocessing.get_context("spawn")
    ranks = context.SimpleQueue()
    for rank in range(config.workers):
        ranks.put(rank)
    pool = ProcessPoolExecutor(config.workers, context, _start_worker, (config, ranks))
    try:
        yield from _drain(pool, todo, ahead=2 * config.workers)
    except BrokenProcessPool as e:
        raise JobError(
            "a worker died (killed for memory, or a crash inside a library); what is done is kept: run the same "
            "command again, with fewer workers if memory was short"
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_maker(config: BuildDatasetConfig, rank: int) -> Maker:
    """The configured source's maker, its models on the rank's device."""
    if isinstance(config.source, ManifestSource):
        return PhotoMaker(config.source, load_stages(config.source, config.exclude, rank), config.limits)
    return DrawnMaker(config.source, config.seed, config.exclude)


def _drain(pool: ProcessPoolExecutor, todo: Shards, ahead: int) -> Iterator[ShardReport]:
    """At most `ahead` shards are handed out at a time, so that a large plan is not copied at once."""
    waiting = iter(sorted(todo.items()))
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
    maker: Maker | None = None


_worker: _Worker | None = None


def _start_worker(config: BuildDatasetConfig, ranks: "SimpleQueue[int]") -> None:
    global _worker
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _worker = _Worker(config, ranks.get())


def _work(part: int, candidates: list[Candidate]) -> ShardReport:
    assert _worker is not None
    if _worker.maker is None:
        _worker.maker = make_maker(_worker.config, _worker.rank)
    return build_shard(storage.resolve(_worker.config.out), part, candidates, _worker.maker)


def _die_with_parent() -> None:
    """A killed parent closes its end of the sentinel; an orphan would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_any([parent.sentinel])
    os._exit(1)
