"""A gate fitted to judged results, and the promise it can make.

The cases are halved. On one half a logistic score is fitted over the signals, each bent by a curve of at most five
points, and over a few pairs of them (scikit-learn's logistic regression over hat functions); a first threshold is
chosen there from scores that were cross-fitted. On the other half, which the score has not seen, the threshold is
loosened as far as the promise holds (`bound.py`). Results that are worse on purpose may teach the score; they never
count in the promise.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from refine_ops.errors import JobError
from refine_ops.judge.bound import cases_needed, loosest, lower_bound, one_each, upper_bound
from refine_ops.judge.gate import Curve, Gate, Surface, fixed_reason, gate_file, gate_of, signals
from refine_ops.records import Evidence

_KNOTS: Final = (0.02, 0.25, 0.5, 0.75, 0.98)
"""Quantiles of a signal where its curve bends."""
_LEAST_MEASURED: Final = 10
"""Results that must have a signal for it to be used."""
_STRENGTH: Final = 2.0
"""scikit-learn's `C`: how far points may move from 0."""
_FOLDS: Final = 5
_SLACK: Final = 1.6
"""How many times the fewest cases that could keep the promise are asked for: one or two of them will be worse."""
_GOOD: Final = 0.4
_STEPS: Final = 40
"""Thresholds tried: every fortieth of the cross-fitted scores."""
_RESTORED_SHARE: Final = 6.0
_PLANTED_SHARE: Final = 1.0
"""Weight of all that is restored, and of all that is worse, on purpose over that of all results."""
_WORSE_WEIGHT: Final = 2.0
"""A worse result counts as two: few are, and they are what a gate is for."""
PAIRS: Final = (
    ("detail_gained", "detail_kept"),
    ("detail_gained", "sharpness_over"),
    ("detail_gained", "explained"),
    ("detail_kept", "explained"),
    ("detail_kept", "sharpness_gain"),
    ("sharpness_before", "sharpness_after"),
    ("sharpness_over", "grain"),
    ("overshoot", "sharpness_before"),
    ("overshoot", "detail_gained"),
)
"""Signals that mean something together: sharp is good where it was blurred, and too much where it was not."""
_NEVER: Final = ("candidates",)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JudgedResult:
    """One result, its evidence and what is known of it: whether it was worse, and its case."""

    case: str
    evidence: Evidence
    worse: bool


@dataclass(frozen=True, slots=True)
class Promise:
    """At most `max_harm` of what is published is worse, with `confidence`."""

    max_harm: float = 0.05
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold did to the half that it was judged on: results published of all, and worse cases of cases."""

    threshold: float
    coverage: float
    worse: int
    cases: int
    low: float
    high: float

    @property
    def harm(self) -> float:
        return self.worse / self.cases if self.cases else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """`gate` is None where the data cannot support the promise; `missing` then says what would."""

    gate: Gate | None
    missing: str
    points: tuple[Point, ...]
    weights: dict[str, float]
    without: dict[str, Point]
    cases: tuple[int, int]
    results: int
    worse_share: float

    def file(self) -> dict[str, Any]:
        """The gate file, its card in it."""
        assert self.gate is not None
        return gate_file(self.gate, card_of(self))


def calibrate(
    results: Sequence[JudgedResult],
    model: str,
    promise: Promise = Promise(),
    taught: Sequence[JudgedResult] = (),
    about: str = "",
    *,
    leave_out: bool = True,
) -> Calibration:
    """Fit a gate for `model`.

    Args:
        results: What the model made, judged.
        taught: Results that are worse, or restored, on purpose.
        about: What the cases were, for the card.
        leave_out: Also fit without each signal, for the card.

    Raises:
        JobError: nothing to tell apart: no result is worse, or all are; or scikit-learn is absent.
    """
    if len({r.worse for r in results}) < 2:
        raise JobError(f"{model}: of {len(results)} results all are alike; better ones and worse ones are both needed")
    fitted, judged = ([r for r in results if _half(r.case) == half] for half in (0, 1))
    lessons = [r for r in taught if _half(r.case) == 0]
    score = _fit(fitted, lessons, model)
    crossed = _crossed(fitted, lessons, model)
    order = _order(fitted, crossed, promise)
    scores = np.array([score.score(r.evidence) for r in judged])
    points = tuple(_point(judged, scores, t, promise) for t in order)
    chosen = loosest({p.threshold: (p.worse, p.cases) for p in points}, order, promise.max_harm, promise.confidence)
    without = {}
    coverage = next((p.coverage for p in points if p.threshold == chosen), points[0].coverage if points else 0.0)
    if leave_out:
        for name in sorted(score.curves, key=lambda n: -score.curves[n].weight):
            less = _fit(fitted, lessons, model, leave=name)
            without[name] = _at_coverage(judged, less, coverage, promise)
    gate = None
    if chosen is not None:
        gate = _promised(score, chosen, promise, about, next(p for p in points if p.threshold == chosen), judged)
    return Calibration(
        gate=gate,
        missing="" if gate else _missing(points, judged, promise),
        points=points,
        weights={name: curve.weight for name, curve in score.curves.items()},
        without=without,
        cases=(len({r.case for r in fitted}), len({r.case for r in judged})),
        results=len(results),
        worse_share=float(np.mean([r.worse for r in results])),
    )


def card_of(made: Calibration) -> dict[str, Any]:
    """What a calibration found, as JSON."""
    kept = [p for p in made.points if made.gate and p.threshold >= made.gate.threshold]
    return {
        "results": made.results,
        "worse_share": round(made.worse_share, 4),
        "cases": list(made.cases),
        "coverage": round(kept[-1].coverage, 4) if kept else 0.0,
        "harm": [round(v, 4) for v in (kept[-1].harm, kept[-1].low, kept[-1].high)] if kept else None,
        "weights": {name: round(w, 3) for name, w in sorted(made.weights.items(), key=lambda one: -one[1])},
        "without": {name: round(p.harm, 4) for name, p in made.without.items()},
    }


def _half(case: str) -> int:
    return hashlib.sha256(f"half {case}".encode()).digest()[0] % 2


def _fold(case: str) -> int:
    return hashlib.sha256(f"fold {case}".encode()).digest()[0] % _FOLDS


def _fit(results: Sequence[JudgedResult], taught: Sequence[JudgedResult], model: str, leave: str = "") -> Gate:
    """The score alone, its threshold 0 and its promise empty; the same for all where they do not differ.

    Raises:
        JobError: scikit-learn is absent.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as e:
        raise JobError("calibration needs scikit-learn: pip install 'refine-ops[eval]'") from e
    every = [*results, *taught]
    good = np.array([not r.worse for r in every])
    constant = Gate(model, 0.0, {}, (), 0.0, {}, "")
    if good.all() or not good.any():
        return constant
    columns = _signals(every)
    knots = {
        name: tuple(np.unique(np.quantile(values[~np.isnan(values)], _KNOTS).round(6)).tolist())
        for name, values in columns.items()
        if name != leave and name not in _NEVER and np.count_nonzero(~np.isnan(values)) >= _LEAST_MEASURED
    }
    knots = {name: at for name, at in knots.items() if len(at) > 1}
    pairs = [pair for pair in PAIRS if knots.keys() >= set(pair)]
    if not knots:
        return constant
    alone = {name: _hats(columns[name], at) for name, at in knots.items()}
    both = [(alone[a][:, 1:, None] * alone[b][:, None, 1:]).reshape(len(every), -1) for a, b in pairs]
    taught_ones = np.arange(len(every)) >= len(results)
    weight = np.where(good, 1.0, _WORSE_WEIGHT)
    for kind, share in ((good & taught_ones, _RESTORED_SHARE), (~good & taught_ones, _PLANTED_SHARE)):
        weight[kind] = share * max(len(results), 1) / max(int(kind.sum()), 1)
    design = np.concatenate([*alone.values(), *both], axis=1)
    found = LogisticRegression(C=_STRENGTH, max_iter=5000).fit(design, good, sample_weight=weight)
    coefficients = iter(np.round(found.coef_[0], 4).tolist())
    curves, surfaces = {}, []
    for name, at in knots.items():
        absent, *points = [next(coefficients) for _ in range(len(at) + 1)]
        curves[name] = Curve(at, tuple(points), absent)
    for one, other in pairs:
        rows = tuple(tuple(next(coefficients) for _ in knots[other]) for _ in knots[one])
        surfaces.append(Surface((one, other), (knots[one], knots[other]), rows))
    return Gate(model, round(float(found.intercept_[0]), 4), curves, tuple(surfaces), 0.0, {}, "")


def _signals(results: Sequence[JudgedResult]) -> dict[str, Floats]:
    """Each signal's values, NaN where it was not measured."""
    rows = [signals(r.evidence) for r in results]
    return {name: np.array([np.nan if r[name] is None else r[name] for r in rows], np.float64) for name in rows[0]}


def _hats(values: Floats, at: Sequence[float]) -> Floats:
    """Whether a value is absent, and its share of each point of the curve: `(n, 1 + len(at))`."""
    absent = np.isnan(values)
    shares = [np.interp(values, at, row) for row in np.eye(len(at))]
    return np.stack([absent.astype(np.float64), *(np.where(absent, 0.0, share) for share in shares)], axis=1)


def _crossed(results: Sequence[JudgedResult], taught: Sequence[JudgedResult], model: str) -> Floats:
    """Each result's score by a fit without its fold."""
    folds = np.array([_fold(r.case) for r in results])
    scores = np.zeros(len(results))
    for fold in range(_FOLDS):
        here = [r for r, f in zip(results, folds, strict=True) if f != fold]
        made = _fit(here, [r for r in taught if _fold(r.case) != fold], model)
        for index in np.flatnonzero(folds == fold).tolist():
            scores[index] = made.score(results[index].evidence)
    return scores


def _order(results: Sequence[JudgedResult], scores: Floats, promise: Promise) -> list[float]:
    """Thresholds, from the strictest that publishes enough cases to keep the promise with one of them worse to ever
    looser ones. They come from these scores, which are not those that they are tested on."""
    if not scores.size:
        return []
    tried = sorted({round(float(t), 4) for t in np.quantile(scores, np.linspace(0.98, 0, _STEPS))}, reverse=True)
    points = [_point(results, scores, t, promise) for t in tried]
    enough = _SLACK * (cases_needed(promise.max_harm, promise.confidence) or 0)
    first = next((p for p in points if p.cases >= enough), points[-1])
    return tried[points.index(first) :]


def _point(results: Sequence[JudgedResult], scores: Floats, threshold: float, promise: Promise) -> Point:
    published = [r for r, s in zip(results, scores, strict=True) if s >= threshold and not fixed_reason(r.evidence)]
    worse, cases = one_each([r.case for r in published], [r.worse for r in published])
    share = len(published) / len(results) if results else 0.0
    return Point(
        threshold, share, worse, cases,
        lower_bound(worse, cases, promise.confidence), upper_bound(worse, cases, promise.confidence),
    )  # fmt: skip


def _at_coverage(results: Sequence[JudgedResult], gate: Gate, coverage: float, promise: Promise) -> Point:
    """What another score does where it publishes as much."""
    scores = np.array([gate.score(r.evidence) for r in results])
    allowed = np.array([not fixed_reason(r.evidence) for r in results])
    rank = np.sort(np.where(allowed, scores, -np.inf))[::-1]
    count = min(max(1, round(coverage * len(results))), len(rank))
    return _point(results, scores, float(rank[count - 1]), promise)


def _promised(
    score: Gate, threshold: float, promise: Promise, about: str, point: Point, judged: Sequence[JudgedResult]
) -> Gate:
    said = {
        "max_harm": promise.max_harm,
        "confidence": promise.confidence,
        "cases": point.cases,
        "worse": point.worse,
        "at_most": round(point.high, 4),
        "about": about,
    }
    made = replace(score, threshold=threshold, promise=said)
    return gate_of(gate_file(made, {}))


def _missing(points: Sequence[Point], judged: Sequence[JudgedResult], promise: Promise) -> str:
    """In words, how many cases more would do."""
    cases = len({r.case for r in judged})
    if not points:
        needed = cases_needed(promise.max_harm, promise.confidence)
        return f"{cases} cases to judge on say nothing; at least {needed} published ones are needed"
    best = points[0]
    said = (
        f"{best.worse} of {best.cases} published cases are worse, which allows up to {best.high:.1%}, over "
        f"the {promise.max_harm:.0%} that was to be promised with {promise.confidence:.0%} confidence"
    )
    # What few cases show is chance: as many are asked for as do where the gate is as good as it must be.
    needed = cases_needed(promise.max_harm, promise.confidence, min(best.harm, _GOOD * promise.max_harm))
    if needed is None or not best.cases or best.low > promise.max_harm:
        return f"{said}; more cases alone do not help, the model makes too much worse that looks right"
    # Of all cases given, half are judged on, and of those a part is published.
    total = int(np.ceil(2 * _SLACK * needed * cases / best.cases))
    return f"{said}; at least {max(1, total - 2 * cases)} more cases like these are missing ({total} in all)"


def sweep(results: Sequence[JudgedResult], gate: Gate) -> Iterator[tuple[JudgedResult, bool]]:
    """Each result and whether the gate publishes it."""
    for result in results:
        yield result, gate.rule(result.evidence).accepted
