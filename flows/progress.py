"""Progress that people can read: a line on the terminal every two seconds, with throughput and time left."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_EVERY_S = 2.0
_ELSEWHERE_EVERY_S = 10.0

ShowShare = Callable[[float, str], None]
"""Called with percent done and the line, about every ten seconds and at the end."""


class ProgressDisplay:
    """`refine: 120/400 items, 4.10 items/s, 1 min 8 s left, 3 dead`, as a `progress.OnProgress`.

    What is over within two seconds shows nothing. The rate counts from the first finished item on: before that, models
    are loaded.
    """

    def __init__(
        self, label: str, unit: str = "items", stream: TextIO | None = None, elsewhere: ShowShare | None = None
    ) -> None:
        self._label, self._unit, self._stream, self._elsewhere = label, unit, stream or sys.stderr, elsewhere
        self._started = self._printed = self._sent = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._shown = ""

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        """`done` of `total` (None: nobody knows) since this object was made; may be called as often as one likes."""
        now = time.monotonic()
        if done and self._first is None:
            self._first = (now, done)
        complete = done == total
        if now - self._printed >= _TERMINAL_EVERY_S or (complete and self._shown):
            line = self._line(done, total, detail, now)
            if line.partition(",")[0] != self._shown.partition(",")[0] or detail not in self._shown:
                print(f"{self._label}: {line}", file=self._stream, flush=True)
            self._printed, self._shown = now, line
        if self._elsewhere and total and (now - self._sent >= _ELSEWHERE_EVERY_S or complete):
            self._sent = now
            self._elsewhere(100.0 * done / total, self._line(done, total, detail, now))

    def _line(self, done: int, total: int | None, detail: str, now: float) -> str:
        of = "" if total is None else f"/{total:,}"
        text = f"{done:,}{of} {self._unit}"
        if self._first is not None:
            since, before = self._first
            text += pace(done - before, (total or done) - before, now - since, self._unit)
        return f"{text}, {detail}" if detail else text


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
