"""The parts that are to do, over processes: what kills a worker is found and recorded, none outlives the parent."""

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final

import cv2
import pyarrow as pa

from refine_ops import storage
from refine_ops.detect.finding.load import open_finders
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.listing import images_of
from refine_ops.detect.regions.parts import Looker, look_at_part
from refine_ops.errors import JobError, RefineError
from refine_ops.job.child import die_with_parent
from refine_ops.progress import OnProgress

_MOST_POISON: Final = 8
"""Images that may each kill two workers before it counts as the machine's fault, not theirs."""
_TICK_S: Final = 1.0


class LookerDied(RefineError):
    """A worker was killed or crashed; one of `parts` was why, at one of `items`."""

    def __init__(self, parts: list[int], items: list[str]) -> None:
        super().__init__(f"a worker died at one of {items}")
        self.parts, self.items = parts, items


def do_parts(config: DetectRegionsConfig, plan: pa.Table, todo: Iterable[int], on_progress: OnProgress) -> None:
    """Look at every image of these parts. With one worker, in this process.

    A death (a crash inside a library, killed for memory) is survived: the parts in the works are done again one at a
    time, and an image that kills its worker once more is dead-lettered as `worker.killed`.

    Raises:
        JobError: what a worker met that is no image's fault, or workers keep dying.
    """
    left = sorted(todo)
    images = sum(_size(config, plan, number) for number in left)
    workers = min(config.workers or os.cpu_count() or 1, len(left))
    if workers <= 1:
        _do_here(config, plan, left, on_progress)
        return
    tally = _Tally(images, on_progress)
    poison: set[str] = set()
    while left:
        try:
            _pooled(config, plan, left, poison, workers, tally)
        except LookerDied as died:
            if not died.items:
                raise JobError(
                    "a worker died while it opened its detectors: probably memory is short; use fewer workers"
                ) from died
            for number in died.parts:
                _alone(config, plan, number, poison, tally)
                left.remove(number)


class _Tally:
    """How many images are done, of parts that are and of those in the works."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total, self._on_progress = total, on_progress
        self.done = 0

    def show(self, in_works: int = 0) -> None:
        self._on_progress(min(self.done + in_works, self._total), self._total)


def _size(config: DetectRegionsConfig, plan: pa.Table, number: int) -> int:
    return min(config.part_images, int(plan.num_rows) - number * config.part_images)


def _do_here(config: DetectRegionsConfig, plan: pa.Table, todo: list[int], on_progress: OnProgress) -> None:
    looker = Looker(config, open_finders(config.detectors, config.limits))
    total, done = sum(_size(config, plan, number) for number in todo), 0
    for number in todo:
        images = images_of(plan, number * config.part_images, config.part_images)
        before = done
        done += look_at_part(
            storage.resolve(config.out),
            number,
            images,
            looker,
            note=lambda place, before=before: on_progress(before + place, total),  # type: ignore[misc]
        )
    on_progress(done, total)


def _alone(config: DetectRegionsConfig, plan: pa.Table, number: int, poison: set[str], tally: _Tally) -> None:
    """One suspect part in a process of its own, again until it is through; who kills it joins `poison`."""
    left = [number]
    while left:
        try:
            _pooled(config, plan, left, poison, 1, tally)
        except LookerDied as died:
            poison.update(died.items)
            if not died.items or len(poison) > _MOST_POISON:
                raise JobError(
                    f"{len(poison)} images each killed their worker twice ({', '.join(sorted(poison))}): probably "
                    "memory is short; run the same command again with fewer workers"
                ) from died


def _pooled(
    config: DetectRegionsConfig, plan: pa.Table, left: list[int], poison: set[str], workers: int, tally: _Tally
) -> None:
    """Do the parts in `left`, taking out each as it is committed.

    Raises:
        LookerDied: what was in the works is in it.
    """
    context = multiprocessing.get_context("spawn")
    ranks = context.SimpleQueue()
    for rank in range(workers):
        ranks.put(rank)
    at = context.Array("q", [-1] * workers, lock=False)
    pool = ProcessPoolExecutor(workers, context, _start, (config, ranks, at, frozenset(poison)))
    waiting = list(left)
    running: dict[Future[int], int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * workers:  # a large plan is not copied at once
                number = waiting.pop(0)
                images = images_of(plan, number * config.part_images, config.part_images)
                running[pool.submit(_work, number, images)] = number
            finished, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in finished:
                tally.done += future.result()
                left.remove(running.pop(future))
            tally.show(sum(place % config.part_images for place in at if place >= 0))
    except BrokenProcessPool as e:
        places = sorted({place for place in at if place >= 0})
        items = [plan["item_id"][place].as_py() for place in places]
        parts = sorted({place // config.part_images for place in places} & set(left))
        raise LookerDied(parts, items) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(slots=True)
class _Process:
    """What a pool's calls share in one process. The first opens the detectors, so that errors reach the parent."""

    config: DetectRegionsConfig
    rank: int
    at: Any
    poison: frozenset[str]
    looker: Looker | None = None


_process: _Process | None = None


def _start(config: DetectRegionsConfig, ranks: Any, at: Any, poison: frozenset[str]) -> None:
    global _process
    die_with_parent()
    cv2.setNumThreads(1)
    _process = _Process(config, ranks.get(), at, poison)


def _work(number: int, images: list[Any]) -> int:
    process = _process
    assert process is not None
    if process.looker is None:
        process.looker = Looker(process.config, open_finders(process.config.detectors, process.config.limits))
    first = number * process.config.part_images

    def note(place: int) -> None:
        process.at[process.rank] = first + place

    count = look_at_part(storage.resolve(process.config.out), number, images, process.looker, process.poison, note)
    process.at[process.rank] = -1
    return count
