"""Nights without processes of their own: a rank in this one, whose refiner shows in its pixels what it was made of."""

import hashlib
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flows.steps.engine import Engine
from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.job import run_folder
from refine_ops.job.launch import NodeVerdict
from refine_ops.job.ledger import LedgerWriter
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.rank.pipeline import Pipeline
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Journal, Scratch, Spec
from refine_ops.records import Patch
from tests.support.trivial_worker import TrivialRefiner, TrivialWork


class NightRefiner(TrivialRefiner):
    """The trivial refiner, a shade brighter or darker by its weights; every region it refines is a line of `log`."""

    def __init__(self, adapters: Sequence[str], pixels: int, log: Path | None = None) -> None:
        digest = hashlib.sha256(f"{list(adapters)} {pixels}".encode()).digest()
        self._shade, self._log, self._lock = int.from_bytes(digest[:2]) / (1 << 16) * 0.1, log, threading.Lock()

    def refine_prepared(self, batch: Sequence[TrivialWork]) -> list[Patch]:
        patches = [self._shaded(patch) for patch in super().refine_prepared(batch)]
        if self._log is not None:
            with self._lock, self._log.open("a") as log:
                log.writelines(f"{work.item.prompt}\n" for work in batch)
        return patches

    def _shaded(self, patch: Patch) -> Patch:
        return replace(patch, pixels=np.clip(patch.pixels - np.float32(self._shade), 0, 1))


class RankHere:
    """What a work pool does for a start, in this thread; the work on the device is logged."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(
        self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
    ) -> NodeVerdict:
        started, positions = time.monotonic(), iter(todo.positions.tolist())
        lock = threading.Lock()

        def take() -> Assignment | None:
            with lock:
                return next((Assignment(position) for position in positions), None)

        spec = Spec(
            run=folder.uri,
            fingerprint=folder.fingerprint,
            start=folder.start,
            refine=config.refine,
            worker=config.worker,
            access=config.access,
            keep_patches=config.keep_patches,
            solo=False,
            writer=uuid.uuid4().hex[:8],
        )
        ledger = LedgerWriter(folder.outcomes, spec.writer, config.worker.flush_items, config.worker.flush_s)
        refiner = NightRefiner(config.refine.model.adapters, run_folder.PIXEL_VERSION, self._log)
        with tempfile.TemporaryDirectory() as scratch:
            pipeline = Pipeline(
                spec=spec,
                folder=folder,
                plan=PlanReader(folder.plan),
                take=take,
                refiner=refiner,
                device_works=lambda: True,
                ledger=ledger,
                journal=Journal(Scratch(Path(scratch)), 0),
                rank=0,
            )
            pipeline.run()
            ledger.flush()
        return NodeVerdict(1, 0, pipeline.counts, time.monotonic() - started)


def die_at_write(number: int, *, after: bool) -> None:
    """From now on: SIGKILL to this process before, or right after, its N-th write (heartbeats do not count)."""
    real, left, lock = storage.write, [number], threading.Lock()

    def write(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        with lock:
            left[0] -= ".alive." not in uri
            last = left[0] == 0
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(uri, data, only_if_absent=only_if_absent)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    storage.write = write
