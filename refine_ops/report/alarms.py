"""Alarms: the newest run against its own history, per metric and slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from refine_ops.report.config import TrendSettings
from refine_ops.report.figures import FIGURES, RUN_FIGURES, Figure
from refine_ops.report.trend import TrendPoint, series

_BY_NAME = {m.name: m for m in FIGURES + RUN_FIGURES}
_RELATIVE_FLOOR = 0.05
"""Speed and device time: a median that moves by less than 5 % is no news."""
_CLIP = 4.0
"""One bad night moves the change-point statistic by at most this many sigmas."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A metric of a slice left its history. `score` and `threshold` are in sigmas; `since` is the run it began with."""

    kind: Literal["jump", "change-point"]
    slice: str
    metric: str
    value: float
    expected: float
    score: float
    threshold: float
    since: str
    text: str


def find_alarms(history: Sequence[TrendPoint], newest: Sequence[TrendPoint], settings: TrendSettings) -> list[Alarm]:
    """Alarms of the newest run, gravest first.

    A jump is a robust z-score: distance from the past median over the root sum of squares of the past 1.4826 MAD, the
    medians' own sampling error (1.2533 spread / sqrt(items)) and the metric's floor. A change point is a one-sided
    CUSUM (Page 1954) of the same scores, against the older half of the window, that passes its decision interval at
    the newest run. Runs with fewer than `min_items` measured items, and series with fewer than `min_runs`, are silent.
    """
    run = newest[0].run if newest else ""
    past = series(p for p in history if p.run != run and p.items >= settings.min_items)
    found = []
    for point in newest:
        metric = _BY_NAME.get(point.metric)
        before = past.get((point.slice, point.metric), [])[-settings.window_runs :]
        if metric is None or point.items < settings.min_items or len(before) < settings.min_runs:
            continue
        alarm = _jump(metric, before, point, settings) or _change_point(metric, before, point, settings)
        if alarm:
            found.append(alarm)
    return sorted(found, key=lambda a: a.score / a.threshold, reverse=True)


def _jump(metric: Figure, before: list[TrendPoint], point: TrendPoint, settings: TrendSettings) -> Alarm | None:
    values = np.array([p.value for p in before])
    centre = float(np.median(values))
    score = (point.value - centre) / _sigma(metric, before, point)
    if not _is_worse(metric, score) or abs(score) < settings.z:
        return None
    text = (
        f"{metric.label} ({point.slice}): {point.value:.4g} {metric.unit}, expected {centre:.4g} from "
        f"{len(before)} runs; {abs(score):.1f} sigma (limit {settings.z:g})"
    )
    return Alarm("jump", point.slice, metric.name, point.value, centre, abs(score), settings.z, point.run, text)


def _change_point(metric: Figure, before: list[TrendPoint], point: TrendPoint, settings: TrendSettings) -> Alarm | None:
    reference = before[: max(settings.min_runs, len(before) // 2)]
    recent = [*before[len(reference) :], point]
    if len(recent) < 3:
        return None
    centre = float(np.median([p.value for p in reference]))
    scores = np.clip([(p.value - centre) / _sigma(metric, reference, p) for p in recent], -_CLIP, _CLIP)
    for sign in (1.0, -1.0):
        total, start = _cusum(sign * scores, settings.cusum_k)
        if total >= settings.cusum_h and _is_worse(metric, sign):
            since = recent[start]
            text = (
                f"{metric.label} ({point.slice}): {point.value:.4g} {metric.unit}, was {centre:.4g}; moved with run "
                f"{since.run} and stayed (CUSUM {total:.1f}, limit {settings.cusum_h:g})"
            )
            return Alarm(
                "change-point", point.slice, metric.name, point.value, centre, total, settings.cusum_h, since.run, text
            )
    return None


def _cusum(scores: npt.NDArray[np.float64], slack: float) -> tuple[float, int]:
    """The one-sided CUSUM at the end, and the index at which its last climb began."""
    total, start = 0.0, 0
    for i, score in enumerate(scores):
        if total == 0.0:
            start = i
        total = max(0.0, total + float(score) - slack)
    return total, start


def _sigma(metric: Figure, before: list[TrendPoint], point: TrendPoint) -> float:
    values = np.array([p.value for p in before])
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre)))
    sampling = 1.2533 * point.spread / np.sqrt(point.items)
    floor = max(metric.floor, _RELATIVE_FLOOR * abs(centre) if metric.group == "run" else 0.0, 1e-9)
    # The floor is the smallest move that matters; a third of it as sigma alarms at twice that for z = 6.
    return float(np.sqrt(spread**2 + sampling**2 + (floor / 3) ** 2))


def _is_worse(metric: Figure, score: float) -> bool:
    return metric.worse == "both" or (score > 0) == (metric.worse == "up")
