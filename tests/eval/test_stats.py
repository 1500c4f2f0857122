"""Statistics proven by simulation: thousands of benchmarks of the paper's size with a known truth."""

import numpy as np
import pytest
from scipy import stats as reference

from refine_ops.errors import JobError
from refine_ops.eval import stats

BENCHMARKS = 4000
INPUTS = 6


def _simulate(shape: str, n_cases: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """`(benchmarks, cases, inputs)` values whose inputs share their case's level, and the true mean."""
    level = rng.normal(size=(BENCHMARKS, n_cases, 1))
    noise = rng.normal(size=(BENCHMARKS, n_cases, INPUTS))
    if shape == "normal":
        return level + 0.7 * noise, 0.0
    if shape == "skewed":
        return np.exp(0.6 * level + 0.5 * noise), float(np.exp((0.6**2 + 0.5**2) / 2))
    if shape == "bounded":
        return np.clip(rng.beta(4, 2, level.shape) + 0.05 * noise, -9, 9), 4 / 6
    chance = rng.beta(2, 2, level.shape)
    return (rng.random(noise.shape) < chance).astype(float), 0.5


@pytest.mark.long
@pytest.mark.parametrize("n_cases", [31, 36])
@pytest.mark.parametrize("shape", ["normal", "skewed", "bounded", "binary"])
def test_intervals_cover_the_truth_at_the_papers_design(shape: str, n_cases: int) -> None:
    values, truth = _simulate(shape, n_cases, np.random.default_rng([n_cases, len(shape)]))
    low, high = stats.mean_interval(values.mean(-1), resamples=2000)
    covered = float(np.mean((low <= truth) & (truth <= high)))
    assert 0.93 <= covered <= 0.97


def test_an_interval_that_ignores_cases_would_not_cover() -> None:
    values, truth = _simulate("normal", 36, np.random.default_rng(0))
    flat = values.reshape(BENCHMARKS, -1)
    half = 1.96 * flat.std(-1, ddof=1) / np.sqrt(flat.shape[1])
    assert np.mean(np.abs(flat.mean(-1) - truth) <= half) < 0.75


def test_null_comparisons_are_significant_as_often_as_stated() -> None:
    values, _ = _simulate("normal", 31, np.random.default_rng(1))
    p = stats.sign_flip_p(values.mean(-1)[:2000], flips=999)
    assert 0.035 <= np.mean(p <= 0.05) <= 0.065


def test_the_minimum_detectable_difference_is_found_with_the_stated_power() -> None:
    rng = np.random.default_rng(2)
    n_cases, spread = 31, 1.0
    factor = (reference.t.ppf(0.975, n_cases - 1) + reference.t.ppf(0.8, n_cases - 1)) / np.sqrt(n_cases)
    means = rng.normal(factor * spread, spread, (2000, n_cases))
    one = stats.paired_comparison(np.zeros(n_cases), means[0], np.arange(n_cases))
    assert one.minimum_detectable == pytest.approx(factor * means[0].std(ddof=1))
    found = np.mean(stats.sign_flip_p(means, flips=999) <= 0.05)
    assert 0.76 <= found <= 0.86
    assert stats.cases_needed(one, one.minimum_detectable * 1.0001) == n_cases


def test_exact_sign_flips_agree_with_scipy() -> None:
    d = np.random.default_rng(3).normal(0.5, 1, 9)
    exact = reference.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip_p(d) == pytest.approx(exact.pvalue)


def test_six_copies_of_an_input_add_no_confidence() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=20)
    once = stats.cluster_interval(values, np.arange(20))
    copies = stats.cluster_interval(np.repeat(values, 6), np.repeat(np.arange(20), 6))
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    assert (copies.n_cases, copies.n_inputs) == (20, 120)


def test_holm_by_hand() -> None:
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("values", [[1.0] * 8, [0.0] * 7 + [1.0]])
def test_values_without_spread_give_finite_intervals(values: list[float]) -> None:
    interval = stats.cluster_interval(values, range(8))
    assert np.isfinite([interval.low, interval.high]).all()
    assert interval.low <= interval.mean <= interval.high


def test_missing_scores_and_single_cases_are_refused() -> None:
    with pytest.raises(JobError, match="1 of 2 values are not finite"):
        stats.case_means([1.0, float("nan")], ["a", "b"])
    with pytest.raises(JobError, match="at least two cases"):
        stats.paired_comparison([1.0, 2.0], [2.0, 2.0], ["a", "a"])
    with pytest.raises(JobError, match="same inputs"):
        stats.paired_comparison([1.0], [2.0, 2.0], ["a", "b"])
