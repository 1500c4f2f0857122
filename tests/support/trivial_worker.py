"""A rank with a trivial refiner, for tests of everything around the model; run by torch's elastic agent.

The prompt says what the refiner does: `segfault`, `hang`, `raise`, `memory` (Python's MemoryError), `oom` (what the
kernel does to a process that took too much), `nan` (values that are no numbers), `soft` (blurred, which no judge
takes; with `REFINE_TEST_SOFT` in the environment all are), anything else brightens the crop. The environment variable
`REFINE_TEST_FAULT` kills the whole process tree at an exact moment: `after-output:N` right after the N-th output of
this process is in place and before its outcome, `mid-part:N` while the N-th ledger part is half written.
`REFINE_TEST_RETRY_S` is the budget of S3's retries, `REFINE_TEST_PAUSE_S` the longest pause between two.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from refine_ops import s3, storage
from refine_ops.config import ModelSettings
from refine_ops.job.rank import worker
from refine_ops.records import Conditioning, Patch


@dataclass(frozen=True, slots=True)
class TrivialWork:
    item: Conditioning

    @property
    def bucket(self) -> Hashable:
        return self.item.image.shape[:2]


class TrivialRefiner:
    """Brightens by an amount drawn from the item's own seed, in batches of 4."""

    grid_px = 8
    focus_pixels = 64 * 64
    reference = "as_given"
    tile_zoom = 0.0

    def batch_size(self, bucket: object) -> int:
        return 4

    def prepare(self, item: Conditioning) -> TrivialWork:
        return TrivialWork(item)

    def refine_prepared(self, batch: Sequence[TrivialWork]) -> list[Patch]:
        time.sleep(float(os.environ.get("REFINE_TEST_SLEEP_S", "0")) * len(batch))
        return [self._patch(work.item) for work in batch]

    def _patch(self, item: Conditioning) -> Patch:
        if item.prompt == "segfault":
            ctypes.string_at(0)
        if item.prompt == "hang":
            time.sleep(3600)
        if item.prompt == "raise":
            raise RuntimeError("the model does not like this one")
        if item.prompt == "memory":
            raise MemoryError("cannot allocate 1 TiB")
        if item.prompt == "oom":
            os.kill(os.getpid(), signal.SIGKILL)
        if item.prompt == "nan":
            return Patch(np.full(item.image.shape, np.nan, np.float32), np.ones(item.mask.shape, bool), 4)
        if item.prompt == "soft" or "REFINE_TEST_SOFT" in os.environ:
            soft = cv2.GaussianBlur(item.image.astype(np.float32) / 255, (0, 0), 5.0)
            return Patch(soft, np.ones(item.mask.shape, bool), 4)
        amount = np.random.default_rng(item.seed).uniform(0.05, 0.2)
        pixels = np.clip(item.image.astype(np.float32) / 255 + np.float32(amount), 0, 1)
        return Patch(pixels, np.ones(item.mask.shape, bool), 4)


def load(settings: ModelSettings, device: worker.Device) -> TrivialRefiner:
    """It runs on no device, so a rank of it starts without torch."""
    return TrivialRefiner()


def kill_tree() -> None:
    """SIGKILL to the launcher, the agent where there is one, and this process: the power goes."""
    above = [os.getpid(), os.getppid(), _parent_of(os.getppid())]
    for pid in reversed(above):
        # The other rank may have been quicker; then these numbers belong to nobody, or to somebody else.
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"tests.support" in command or b"refine_ops.job.elastic" in command:
                os.kill(pid, signal.SIGKILL)


def _parent_of(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def inject() -> None:
    """Log every published output, and die at the asked-for moment."""
    kind, _, count = os.environ.get("REFINE_TEST_FAULT", "none:0").partition(":")
    left = {kind: int(count or 0)}
    log = os.environ["REFINE_TEST_PUBLISHED"]
    write = storage.write

    def faulty(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        output = "/outputs/" in uri or "/held/" in uri
        if kind == "mid-part" and "/outcomes/" in uri:
            left[kind] -= 1
            if left[kind] <= 0:
                folder = os.path.dirname(uri)
                os.makedirs(folder, exist_ok=True)
                with open(os.path.join(folder, ".tmp-half"), "wb") as f:
                    f.write(data[: len(data) // 2])
                kill_tree()
        write(uri, data, only_if_absent=only_if_absent)
        if output:
            with open(log, "a") as f:
                f.write(f"{uri} {storage.sha256(data)}\n")
        if kind == "after-output" and output:
            left[kind] -= 1
            if left[kind] <= 0:
                kill_tree()

    storage.write = faulty


if __name__ == "__main__":
    s3.RETRY_BUDGET_S = float(os.environ.get("REFINE_TEST_RETRY_S", s3.RETRY_BUDGET_S))
    s3._LONGEST_PAUSE_S = float(os.environ.get("REFINE_TEST_PAUSE_S", s3._LONGEST_PAUSE_S))
    inject()
    worker.main(import_refiner=lambda: load)
