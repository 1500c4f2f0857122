"""One rank: takes items from the launch's counter, and each from its row to its outcome.

Threads read, decode and focus ahead of the model and align, paste, verify, encode and write behind it; the main thread
only runs the model. What is held is bounded in bytes and items, so memory stays flat whatever the manifest.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refine_ops.config import ModelSettings
from refine_ops.errors import EXIT_DRAINED, EXIT_JOB_ERROR, EXIT_OK, JobError
from refine_ops.job.child import die_with_parent
from refine_ops.job.ledger import LedgerWriter
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.rank.pipeline import Pipeline
from refine_ops.job.rank.shared_counter import Counter, SharedCounter, SoleCounter
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Journal, Scratch
from refine_ops.judge.judge import open_judge
from refine_ops.records import Refiner

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
EXIT_HUNG = 70
"""A model call outlasted the watchdog (`EX_SOFTWARE`)."""


Device = Callable[[], "torch.device"]
"""This rank's device. Asking imports torch, 2 CPU seconds, so what runs on none does not ask."""
Load = Callable[[ModelSettings, Device], Refiner]


def import_model() -> Load:
    """What loads the refiner that the settings name; imported here, as only ranks need the model's libraries."""
    import refine_ops.model.refiner  # noqa: F401  while the order is awaited; most settings name a network
    from refine_ops.model.open import open_refiner

    return lambda settings, device: open_refiner(settings, device())


def main(arguments: list[str] | None = None, import_refiner: Callable[[], Load] = import_model) -> None:
    """Entry point of a rank, started by torch's elastic agent or, with `--parent`, as the only one.

    `import_refiner` gives it another refiner than the settings'.
    """
    parser = argparse.ArgumentParser(prog="refine_ops.job.rank.worker")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    options = parser.parse_args(arguments)
    scratch = Scratch(options.scratch)
    die_with_parent(options.parent)
    # Blocked in every thread, so that the keeper alone receives them; before it is there, `_await_assignments` does.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    # Readers and finishers are busy Python threads. At the default of 5 ms the thread that feeds the device waits for
    # its turn 20 times as long as at this (`tests/bench/bench_switch.py`).
    sys.setswitchinterval(0.0002)
    counter = SharedCounter() if options.parent is None else SoleCounter()
    load = import_refiner()
    _await_assignments(scratch)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {counter.rank} %(name)s %(levelname)s %(message)s"
    )
    try:
        code = run_rank(scratch, counter, load)
    except JobError as e:
        logger.error("%s", e)
        scratch.write_error(counter.rank, str(e))
        code = EXIT_JOB_ERROR
    counter.close()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # threads stuck in a store or a codec must not hold up a rank that has flushed everything


def _await_assignments(scratch: Scratch) -> None:
    """A rank may be started while its work is still being planned."""
    while not scratch.has_assignments:
        if signal.sigtimedwait(_STOP_SIGNALS, 0.02):
            os._exit(EXIT_DRAINED)


def run_rank(scratch: Scratch, counter: Counter, load: Load) -> int:
    """Refine until the counter is used up or a stop is asked for; returns the exit code."""
    spec, assigned = scratch.assigned()
    folder = RunFolder(spec.run, spec.fingerprint, spec.start)
    started = time.monotonic()
    device = partial(counter.device, spec.refine.model.device)
    refiner = load(spec.refine.model, device)
    load_s = time.monotonic() - started
    logger.info("model %s loaded in %.1f s", spec.refine.model.model, load_s)
    writer = f"{spec.writer}-r{counter.rank}-{os.getpid()}"
    ledger = LedgerWriter(folder.outcomes, writer, spec.worker.flush_items, spec.worker.flush_s)

    def take() -> Assignment | None:
        if spec.until is not None and time.time() >= spec.until:
            return None
        index = counter.take(len(assigned))
        return None if index is None else Assignment(*assigned[index].item())

    pipeline = Pipeline(
        spec=spec,
        folder=folder,
        plan=PlanReader(folder.plan),
        take=take,
        refiner=refiner,
        device_works=partial(_device_works, device),
        ledger=ledger,
        journal=Journal(scratch, counter.rank),
        rank=counter.rank,
        judge=open_judge(spec.refine),
    )
    keeper = _Keeper(pipeline, ledger, scratch, counter.rank, load_s)
    keeper.start()
    pipeline.run()
    ledger.flush()
    keeper.report()
    return EXIT_DRAINED if pipeline.stopping.is_set() else EXIT_OK


def _device_works(device: Device) -> bool:
    # A refiner without torch has no device that could have failed; to import it only to ask would take seconds.
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    try:
        return bool(torch.ones(1, device=device()).item() == 1.0)
    except RuntimeError:
        logger.exception("the device does not answer any more; this rank ends")
        return False


class _Keeper(threading.Thread):
    """Receives SIGTERM, flushes the ledger by time, reports progress, and ends a rank that hangs or will not stop."""

    def __init__(self, pipeline: Pipeline, ledger: LedgerWriter, scratch: Scratch, rank: int, load_s: float) -> None:
        super().__init__(daemon=True, name="keeper")
        self._pipeline, self._ledger, self._scratch = pipeline, ledger, scratch
        self._rank, self._load_s = rank, load_s
        self._deadline = float("inf")

    def run(self) -> None:
        while True:
            if signal.sigtimedwait(_STOP_SIGNALS, 0.25) and not self._pipeline.stopping.is_set():
                logger.info("asked to stop; finishing what is in flight")
                self._deadline = time.monotonic() + self._pipeline.spec.worker.grace_s
                self._pipeline.stop()
            try:
                self._ledger.flush_if_due()
            except JobError as e:
                self._pipeline.fail(e)
            self.report()
            self._check_clock()

    def report(self) -> None:
        self._scratch.write_counts(self._rank, replace(self._pipeline.counts, load_s=self._load_s))

    def _check_clock(self) -> None:
        now, limit_s = time.monotonic(), self._pipeline.spec.worker.watchdog_s
        called = self._pipeline.model_call_started
        if called is not None and now - called > limit_s:
            logger.critical("a model call has run for %.0f s (watchdog); this rank ends", now - called)
            self._ledger.flush()
            os._exit(EXIT_HUNG)
        if now > self._deadline:
            logger.warning("grace is over; what is in flight will be redone")
            self._pipeline.drop_in_flight()
            self._ledger.flush()
            os._exit(EXIT_DRAINED)


if __name__ == "__main__":
    main()
