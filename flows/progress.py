"""Progress that people can read: a line on the terminal and a Prefect artifact, with throughput and time left."""

import sys
import time
from typing import TextIO
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from refine_ops.job.scratch import Progress

_TERMINAL_EVERY_S = 2.0
_ARTIFACT_EVERY_S = 10.0


class Ticker:
    """A line every two seconds: `report: 1,200/20,000 items, 55.90 items/s, 5 min 36 s left`."""

    def __init__(self, label: str, unit: str = "items", stream: TextIO | None = None) -> None:
        self._label, self._unit, self._stream = label, unit, stream or sys.stderr
        self._started = self._printed = time.monotonic()

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        """`done` of `total` (None: nobody knows) since this object was made; may be called as often as one likes."""
        now = time.monotonic()
        if now - self._printed < _TERMINAL_EVERY_S:
            return
        self._printed = now
        of = "" if total is None else f"/{total:,}"
        line = f"{done:,}{of} {self._unit}{pace(done, total or done, now - self._started, self._unit)}"
        print(f"{self._label}: {line}{detail and ', ' + detail}", file=self._stream, flush=True)


class ProgressDisplay:
    """Shows how far `total` items are; `update` may be called as often as one likes."""

    def __init__(self, total: int, label: str, stream: TextIO | None = None) -> None:
        self._total, self._label, self._stream = total, label, stream or sys.stderr
        self._started = self._printed = self._sent = time.monotonic()
        self._model_ready: tuple[float, int] | None = None
        self._artifact: UUID | None = None
        self._shown, self._complete = "", False

    def update(self, progress: Progress) -> None:
        now, finished = time.monotonic(), progress.done + progress.dead
        if finished and self._model_ready is None:
            self._model_ready = (now, finished)
        last = finished >= self._total and not self._complete
        self._complete = self._complete or last
        line = self.line(progress)
        if (now - self._printed >= _TERMINAL_EVERY_S and line != self._shown and not self._complete) or last:
            self._printed, self._shown = now, line
            print(f"{self._label}: {line}", file=self._stream, flush=True)
        if (now - self._sent >= _ARTIFACT_EVERY_S and not self._complete) or last:
            self._sent = now
            self._send(progress)

    def line(self, progress: Progress) -> str:
        """`120/400 items, 3 dead, 4.1 items/s, 1 min 8 s left`; the rate counts from the first finished item on."""
        finished = progress.done + progress.dead
        text = f"{finished}/{self._total} items"
        if progress.dead:
            text += f", {progress.dead} dead"
        if self._model_ready is None:
            return text + (
                ", loading the model" if not progress.load_s else f", model loaded in {progress.load_s:.1f} s"
            )
        since, before = self._model_ready
        elapsed = time.monotonic() - since
        if finished > before and elapsed > 0:
            text += pace(finished - before, self._total - before, elapsed, "items")
        return text

    def _send(self, progress: Progress) -> None:
        share = 100.0 * (progress.done + progress.dead) / max(1, self._total)
        if self._artifact is None:
            created = create_progress_artifact(share, key="refine-progress", description=self.line(progress))
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, share, description=self.line(progress))


def pace(done: int, total: int, elapsed_s: float, unit: str) -> str:
    """`, 4.10 items/s, 1 min 8 s left`; nothing while there is nothing to tell."""
    if not done or elapsed_s <= 0:
        return ""
    rate = done / elapsed_s
    left = f", {duration((total - done) / rate)} left" if done < total else ""
    return f", {rate:,.{0 if rate >= 100 else 2}f} {unit}/s{left}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
