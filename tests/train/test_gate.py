"""The gate's three answers, and how often it is wrong, by simulation."""

import numpy as np
import pytest

from refine_ops.train.promotion.decision import Criterion, Decision, decide


def _scores(rng: np.random.Generator, cases: int, gain: float, spread: float = 1.0) -> tuple[dict, dict]:
    """Two adapters on `cases` cases of 4 inputs; the second is better by `gain` on average, by case more or less."""
    base = rng.normal(25, 3, cases)
    effect = rng.normal(gain, spread, cases)
    noise = rng.normal(0, 0.2, (2, cases, 4))
    old = {f"c{c}-{k}": (f"c{c}", base[c] + noise[0, c, k]) for c in range(cases) for k in range(4)}
    new = {f"c{c}-{k}": (f"c{c}", base[c] + effect[c] + noise[1, c, k]) for c in range(cases) for k in range(4)}
    return old, new


def _decide(old: dict, new: dict, delta: float = 0.0, higher: bool = True, **options: int) -> Decision:
    values = {"min_cases": 8, **options}
    return decide([Criterion("psnr_mask", old, new, higher, delta)], power=0.8, **values)


def test_a_clearly_better_adapter_is_promoted() -> None:
    decision = _decide(*_scores(np.random.default_rng(0), 24, gain=1.5))
    assert decision.verdict == "promote"
    assert "becomes current" in decision.sentence


def test_for_metrics_where_less_is_better_the_sign_turns() -> None:
    old, new = _scores(np.random.default_rng(0), 24, gain=1.5)
    assert _decide(old, new, higher=False).verdict == "keep"
    assert _decide(new, old, higher=False).verdict == "promote"


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
    finding = decision.findings[0]
    assert decision.verdict == "refuse"
    assert finding.cases_needed is not None
    assert f"about {finding.cases_needed} cases" in decision.sentence
    assert finding.result is not None
    estimated = finding.result.difference
    spread = finding.result.standard_error * np.sqrt(10)
    wins = sum(
        _decide(*_scores(np.random.default_rng(s), finding.cases_needed, estimated, spread), delta=0.2).verdict
        == "promote"
        for s in range(16)
    )
    assert wins >= 8  # power 0.8: 12.8 expected, 8 is below its 1 % quantile


def test_fewer_cases_than_the_floor_never_promote() -> None:
    decision = _decide(*_scores(np.random.default_rng(0), 6, gain=5.0, spread=0.1))
    assert decision.verdict == "refuse"
    assert decision.findings[0].cases_needed == 8


def test_drift_alone_keeps_the_incumbent() -> None:
    rng = np.random.default_rng(0)
    quality = Criterion("psnr_mask", *_scores(rng, 24, gain=2.0), higher=True, delta=0.0)
    drift = Criterion("raw tone shift", *_scores(rng, 24, gain=1.0, spread=0.2), higher=False, delta=0.25)
    decision = decide([quality, drift], min_cases=8, power=0.8)
    assert decision.verdict == "keep"
    assert "raw tone shift" in decision.sentence
    assert "psnr_mask" not in decision.sentence
    assert "| psnr_mask |" in decision.markdown


def test_failures_of_the_new_adapter_keep_the_incumbent() -> None:
    old, new = _scores(np.random.default_rng(0), 24, gain=1.5)
    decision = decide([Criterion("psnr_mask", old, new, True, 0.0)], min_cases=8, power=0.8, failed=3)
    assert decision.verdict == "keep"
    assert "3 inputs" in decision.sentence


def test_nothing_measured_is_refused() -> None:
    assert _decide({}, {}).verdict == "refuse"
