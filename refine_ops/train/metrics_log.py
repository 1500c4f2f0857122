"""The run's record: one JSON line per step or validation, and how fast it goes."""

import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

RECENT: Final = 50
"""Losses whose median an exploding one is compared with."""


class MetricsLog:
    """`metrics.jsonl`: `{"step": 12, "loss": 0.1, ...}`; a value that was not measured is null."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Open the log and drop what a killed run wrote past `resume_step`."""
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, path)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines; the last one of a killed run may be cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class LossWatch:
    """Tells a loss that is not finite, or many times its recent median, before its gradient is applied."""

    def __init__(self, limit: float, recent: list[float]) -> None:
        self._limit = limit
        self._recent: deque[float] = deque(recent[-RECENT:], maxlen=RECENT)

    def objection(self, loss: float, gradient_norm: float) -> str | None:
        """Why the step must not be taken, or None; then the loss is remembered."""
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            return f"loss {loss}, gradient norm {gradient_norm}"
        if len(self._recent) >= RECENT // 2 and loss > self._limit * statistics.median(self._recent):
            median = statistics.median(self._recent)
            return f"loss {loss:.4g} is over {self._limit:g} times its recent median {median:.4g} (run.loss_limit)"
        self._recent.append(loss)
        return None


class Pace:
    """Samples and tokens per second over the last 20 steps, and the seconds left."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=21)
        self._samples = self._tokens = 0
        self._marks.append((time.perf_counter(), 0, 0))

    def step(self, step: int, samples: int, tokens: int) -> dict[str, float]:
        self._samples, self._tokens = self._samples + samples, self._tokens + tokens
        now = time.perf_counter()
        start, samples_then, tokens_then = self._marks[0]
        seconds, steps = max(now - start, 1e-9), len(self._marks)
        self._marks.append((now, self._samples, self._tokens))
        return {
            "samples_per_s": (self._samples - samples_then) / seconds,
            "tokens_per_s": (self._tokens - tokens_then) / seconds,
            "eta_s": seconds / steps * (self._steps - step),
        }
