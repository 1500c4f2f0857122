"""The three answers about a new adapter, and how often they are wrong, by simulation."""

import numpy as np
import pytest

from refine_ops.eval.decision import Criterion, PromotionDecision, decide
from refine_ops.eval.metrics.drift import RAW_DE00
from refine_ops.eval.metrics.fidelity import MASK_PSNR, MSE
from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.results import Results, Score

Scores = dict[str, tuple[str, float]]
"""Case id and value by input id."""


def _scores(rng: np.random.Generator, cases: int, gain: float, spread: float = 1.0) -> tuple[Scores, Scores]:
    """Two adapters on `cases` cases of 4 inputs; the second is better by `gain` on average, by case more or less."""
    base = rng.normal(25, 3, cases)
    effect = rng.normal(gain, spread, cases)
    noise = rng.normal(0, 0.2, (2, cases, 4))
    old = {f"c{c}-{k}": (f"c{c}", base[c] + noise[0, c, k]) for c in range(cases) for k in range(4)}
    new = {f"c{c}-{k}": (f"c{c}", base[c] + effect[c] + noise[1, c, k]) for c in range(cases) for k in range(4)}
    return old, new


def _results(metric: Metric, old: Scores, new: Scores) -> Results:
    rows = [
        Score(method, "0", False, case, name, "free", "face", metric.name, metric.version, "", value, "")
        for method, scores in (("old", old), ("new", new))
        for name, (case, value) in scores.items()
    ]
    return Results(tuple(rows), "digest")


def _decide(
    old: Scores, new: Scores, delta: float = 0.0, metric: Metric = MASK_PSNR, min_cases: int = 8
) -> PromotionDecision:
    criterion = Criterion(metric, delta)
    return decide(_results(metric, old, new), "old", "new", [criterion], min_cases=min_cases, power=0.8)


def test_a_clearly_better_adapter_is_promoted() -> None:
    decision = _decide(*_scores(np.random.default_rng(0), 24, gain=1.5))
    assert decision.verdict == "promote"
    assert "becomes current" in decision.summary


def test_for_metrics_where_less_is_better_the_sign_turns() -> None:
    old, new = _scores(np.random.default_rng(0), 24, gain=1.5)
    assert _decide(old, new, metric=MSE).verdict == "keep"
    assert _decide(new, old, metric=MSE).verdict == "promote"


@pytest.mark.parametrize(("gain", "verdict"), [(-8.0, "keep"), (-0.4, "keep")])
def test_a_broken_adapter_and_one_only_slightly_worse_keep_the_incumbent(gain: float, verdict: str) -> None:
    decision = _decide(*_scores(np.random.default_rng(1), 24, gain=gain, spread=0.3))
    assert decision.verdict == verdict


def test_a_slightly_worse_adapter_is_never_promoted_more_often_than_the_interval_allows() -> None:
    promoted = sum(
        _decide(*_scores(np.random.default_rng(seed), 20, gain=-0.05, spread=0.5)).verdict == "promote"
        for seed in range(40)
    )
    assert promoted <= 4  # a one-sided 2.5 % at no difference: 1 expected, 4 is its 99.7 % quantile


def test_a_delta_lets_an_equal_adapter_pass_where_the_cases_can_tell() -> None:
    old, new = _scores(np.random.default_rng(3), 60, gain=0.0, spread=0.3)
    assert _decide(old, new, delta=0.25).verdict == "promote"


def test_too_few_cases_are_refused_and_the_number_it_takes_is_enough() -> None:
    rng = np.random.default_rng(5)
    decision = _decide(*_scores(rng, 10, gain=0.7, spread=1.5), delta=0.2)
    answer = decision.answers[0]
    assert decision.verdict == "refuse"
    assert answer.cases_needed is not None
    assert f"about {answer.cases_needed} cases" in decision.summary
    assert answer.gain is not None
    estimated = answer.gain.mean
    spread = answer.gain.result.standard_error * np.sqrt(10)
    wins = sum(
        _decide(*_scores(np.random.default_rng(s), answer.cases_needed, estimated, spread), delta=0.2).verdict
        == "promote"
        for s in range(16)
    )
    assert wins >= 8  # power 0.8: 12.8 expected, 8 is below its 1 % quantile


def test_fewer_cases_than_the_floor_never_promote() -> None:
    decision = _decide(*_scores(np.random.default_rng(0), 6, gain=5.0, spread=0.1))
    assert decision.verdict == "refuse"
    assert decision.answers[0].cases_needed == 8


def test_drift_alone_keeps_the_incumbent() -> None:
    rng = np.random.default_rng(0)
    quality = _results(MASK_PSNR, *_scores(rng, 24, gain=2.0)).scores
    drift = _results(RAW_DE00, *_scores(rng, 24, gain=1.0, spread=0.2)).scores
    criteria = [Criterion(MASK_PSNR, 0.0), Criterion(RAW_DE00, 0.25)]
    decision = decide(Results((*quality, *drift), "digest"), "old", "new", criteria, min_cases=8, power=0.8)
    assert decision.verdict == "keep"
    assert "raw_de00" in decision.summary
    assert "psnr_mask" not in decision.summary
    assert "| psnr_mask |" in decision.markdown


def test_inputs_that_only_the_new_adapter_fails_on_keep_the_incumbent() -> None:
    old, new = _scores(np.random.default_rng(0), 24, gain=1.5)
    failed = (("old", "c0"), ("new", "c0"), ("new", "c1"), ("new", "c2"), ("new", "c3"))
    scores = [
        Score(method, "0", False, case, f"{case}-0", "free", "face", "mse", 1, "", None, "model.oom: no memory")
        for method, case in failed
    ]
    results = Results((*_results(MASK_PSNR, old, new).scores, *scores), "digest")
    decision = decide(results, "old", "new", [Criterion(MASK_PSNR, 0.0)], min_cases=8, power=0.8)
    assert decision.verdict == "keep"
    assert "3 inputs" in decision.summary


def test_nothing_measured_is_refused() -> None:
    assert _decide({}, {}).verdict == "refuse"
