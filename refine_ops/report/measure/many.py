"""Many items at once: a pool of processes reads and compares, this one writes; memory stays bounded."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

import cv2

from refine_ops.progress import OnProgress, no_progress
from refine_ops.report.config import MeasureSettings
from refine_ops.report.figures import Compared, Finding, ItemMeasure
from refine_ops.report.items import PAGE_ITEMS, write_items, write_pictures
from refine_ops.report.measure.item import compare, failed
from refine_ops.report.run_items import ReportedItem

logger = logging.getLogger(__name__)

_WAITING_PER_PROCESS = 4
_ITEMS_PER_PROCESS = 8
"""Starting a pool costs 2 CPU seconds, as much as a few items: fewer are compared in this process."""

Work = tuple[ReportedItem, bool]


def measure_items(
    items: Iterable[ReportedItem],
    count: int,
    folder: str,
    settings: MeasureSettings,
    on_progress: OnProgress = no_progress,
) -> list[ItemMeasure]:
    """Compare all items and write `items.parquet` and `evidence/` below `folder`; returns the measures.

    Args:
        count: how many items there will be; pictures of clean items are kept evenly, every n-th.
        on_progress: called with how many are measured, and `count`.

    Raises:
        JobError: the report cannot be written.
    """
    if settings.processes is None:
        settings = settings.model_copy(update={"processes": min(_cores(), max(1, count // _ITEMS_PER_PROCESS))})
    stride = max(1, -(-count // max(1, settings.pictures.keep_items)))
    work = ((item, i % stride == 0 and settings.pictures.keep_items > 0) for i, item in enumerate(items))
    measured: list[tuple[ItemMeasure, int]] = []
    results = iter(compare_all(work, settings))
    part = 0
    while page := list(islice(results, PAGE_ITEMS)):
        write_pictures(folder, part, page)
        measured += [(compared.measure, part) for compared in page]
        part += 1
        on_progress(len(measured), count)
    write_items(folder, measured)
    return [measure for measure, _ in measured]


def compare_all(work: Iterable[Work], settings: MeasureSettings) -> Iterator[Compared]:
    """Results in the order of `work`; at most four items per process are under way.

    A file that kills its process (a decoder's segfault, the kernel's memory killer) becomes a finding of its own item:
    what was under way is then tried again one by one.
    """
    processes = settings.processes or _cores()
    if processes == 1:
        yield from (compare(item, settings, keep) for item, keep in work)
        return
    waiting = iter(work)
    under_way: deque[Work] = deque()
    while True:
        futures: deque[Future[Compared]] = deque()
        with _pool(processes) as pool:
            try:
                while True:
                    for entry in islice(waiting, _WAITING_PER_PROCESS * processes - len(under_way)):
                        under_way.append(entry)  # before `submit`, which raises when the pool is broken already
                        futures.append(pool.submit(compare, entry[0], settings, entry[1]))
                    if not under_way:
                        return
                    result = futures.popleft().result()
                    under_way.popleft()
                    yield result
            except BrokenProcessPool:
                logger.warning("a reading process died; %d items are read again one by one", len(under_way))
        yield from _one_by_one(under_way, settings)


def _one_by_one(suspects: deque[Work], settings: MeasureSettings) -> Iterator[Compared]:
    while suspects:
        with _pool(1) as pool:
            try:
                while suspects:
                    result = pool.submit(compare, suspects[0][0], settings, suspects[0][1]).result()
                    suspects.popleft()
                    yield result
            except BrokenProcessPool:
                text = (
                    "reading this item's files killed the process (a decoder's crash, or memory): look at them by hand"
                )
                yield failed(suspects.popleft()[0], Finding("strict.unreadable", 1, 0, text))


def _pool(processes: int) -> ProcessPoolExecutor:
    # Not fork: callers have threads (Prefect, gRPC), and a forked lock never opens.
    context = get_context("forkserver")
    context.set_forkserver_preload(["refine_ops.report.measure.item"])
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread)


def _cores() -> int:
    """Cores this process may use; macOS knows no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    cv2.setNumThreads(1)
