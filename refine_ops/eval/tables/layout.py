"""A table, and how its cells are written: mean, interval, and what they rest on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.results import Results
from refine_ops.eval.stats import cluster_interval

DIGITS: Final = {"psnr": 2, "psnr_mask": 2, "ssim_bg": 4, "ssim_strict": 4, "mse": 4, "mse_bg": 5,
                 "changed_outside_px": 1, "max_diff_outside": 1, "seam": 1}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResultRow:
    """Cells of one line; the paper's are set apart."""

    cells: tuple[str, ...]
    kind: Literal["measured", "paper"] = "measured"


@dataclass(frozen=True, slots=True)
class ResultTable:
    """`notes` stand below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Style:
    """How means are formed and metrics are called."""

    metrics: dict[str, Metric]
    confidence: float
    resamples: int

    def heads(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{self.metrics[n].label}{self.metrics[n].arrow}" if n in self.metrics else n for n in names)

    def cell(self, results: Results, method: str, metric: str) -> str:
        """Mean, interval, and how many inputs it rests on where some have no score; 'missing' where none has."""
        values = results.values(method, metric)
        if not values:
            return "missing"
        cases, numbers = zip(*values.values(), strict=True)
        found = cluster_interval(numbers, cases, confidence=self.confidence, resamples=self.resamples)
        digits = DIGITS.get(metric, 3)
        text = f"{found.mean:.{digits}f}"
        if np.isfinite(found.low):
            text += f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
        total = sum(s.method == method and s.metric == metric for s in results.scores)
        return text if len(values) == total else f"{text} ({len(values)}/{total})"

    def design(self, results: Results) -> str:
        """The note that says what the means rest on."""
        cases = {s.case_id for s in results.scores}
        inputs = {s.input_id for s in results.scores}
        return (
            f"{len(cases)} cases, {len(inputs)} inputs; mean of case means and {self.confidence:.0%} bootstrap-t "
            f"interval, clustered by case. Case set {results.cases_digest[:12]}."
        )
