"""Gates fitted to results whose truth is known: simulated ones, where the real rate is known too."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from refine_ops.errors import JobError
from refine_ops.judge.bound import cases_needed, loosest, lower_bound, one_each, upper_bound
from refine_ops.judge.calibrate import Calibration, JudgedResult, Promise, calibrate, card_of
from refine_ops.judge.gate import gate_of
from refine_ops.records import Evidence


def simulated(count: int, seed: int, per_case: int = 2, first: int = 0) -> list[JudgedResult]:
    """Results of cases that fail together: what gains detail is rarely worse, and every case has a luck of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        if number % per_case == 0:
            luck = rng.normal(0, 0.7)
        gained, reference = rng.normal(0, 1), rng.normal(0, 1) if rng.random() < 0.5 else None
        logit = 2.2 + 2.0 * gained + (1.5 * reference if reference is not None else 0) + luck
        evidence = Evidence(
            change=5.0, detail_gained=gained, detail_lost=0.0, grain=float(rng.normal()), reference_arrived=reference
        )
        found.append(
            JudgedResult(f"case-{first + number // per_case}", evidence, bool(rng.random() > 1 / (1 + np.exp(-logit))))
        )
    return found


def harm(made: Calibration, population: list[JudgedResult]) -> tuple[float, float]:
    """Share of worse ones among what the gate publishes of a population, and the share published."""
    assert made.gate is not None
    published = [r.worse for r in population if made.gate.rule(r.evidence).accepted]
    return float(np.mean(published)) if published else 0.0, len(published) / len(population)


def test_bounds_are_clopper_and_pearsons() -> None:
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    for worse, published in ((1, 100), (7, 160), (0, 5)):
        high = upper_bound(worse, published)
        assert binom.cdf(worse, published, high) == pytest.approx(0.05)
    assert binom.sf(6, 160, lower_bound(7, 160)) == pytest.approx(0.05)
    assert upper_bound(0, 0) == upper_bound(3, 3) == 1
    assert lower_bound(0, 9) == 0
    assert cases_needed(0.05) == 59
    assert cases_needed(0.05, share_worse=0.06) is None
    needed = cases_needed(0.05, share_worse=0.02)
    assert needed is not None
    assert upper_bound(round(0.02 * needed), needed) <= 0.05


def test_results_of_one_case_count_once() -> None:
    assert one_each(["a"] * 50 + ["b"] * 50, [True] * 50 + [False] * 50) == (1, 2)
    drawn = [one_each([f"c{n}"] * 2, [True, False])[0] for n in range(200)]
    assert 60 < sum(drawn) < 140


def test_a_threshold_is_loosened_until_the_promise_breaks() -> None:
    counts = {3.0: (0, 80), 2.0: (1, 120), 1.0: (9, 150), 0.0: (9, 400)}
    assert loosest(counts, [3.0, 2.0, 1.0, 0.0], 0.05, 0.95) == 2.0
    assert loosest(counts, [1.0, 0.0], 0.05, 0.95) is None
    assert loosest(counts, [], 0.05, 0.95) is None


def test_a_gate_of_enough_results_publishes_and_says_what_it_promises() -> None:
    made = calibrate(simulated(4000, 1), "mine", about="simulated", leave_out=True)
    assert made.gate is not None
    worse, coverage = harm(made, simulated(20000, 2))
    assert worse < 0.05
    assert coverage > 0.3
    assert np.mean([r.worse for r in simulated(20000, 2)]) > 0.15
    assert made.gate.promise["at_most"] <= 0.05
    assert made.gate.promise["about"] == "simulated"
    file = json.loads(json.dumps(made.file()))
    assert gate_of(file) == made.gate
    card = card_of(made)
    assert card["weights"]["detail_gained"] > 3 * card["weights"]["grain"]
    assert card["without"]["detail_gained"] > card["without"]["grain"]


def test_too_few_results_are_refused_and_the_number_missing_is_said() -> None:
    made = calibrate(simulated(40, 3, per_case=1), "mine", leave_out=False)
    assert made.gate is None
    assert "more cases like these are missing" in made.missing
    lucky = [JudgedResult(r.case, r.evidence, n == 0) for n, r in enumerate(simulated(40, 3, per_case=1))]
    made = calibrate(lucky, "mine", leave_out=False)
    assert made.gate is None
    assert "more cases like these are missing" in made.missing


def test_evidence_that_says_nothing_makes_no_gate() -> None:
    rng = np.random.default_rng(4)
    blind = [
        JudgedResult(f"c{n}", Evidence(change=5.0, grain=float(rng.normal())), bool(rng.random() < 0.3))
        for n in range(1000)
    ]
    made = calibrate(blind, "mine", leave_out=False)
    assert made.gate is None
    assert "more cases alone do not help" in made.missing


def test_results_of_one_kind_cannot_be_told_apart() -> None:
    good = [JudgedResult(r.case, r.evidence, False) for r in simulated(100, 5)]
    with pytest.raises(JobError, match="both needed"):
        calibrate(good, "mine")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_promise_holds_in_95_percent_of_repetitions() -> None:
    """200 gates of 2,000 simulated results each, judged on 40,000 others.

    Last run: 197 of 200 kept the promise, 30 of them by refusing; 38 % published on average; 409 s on two loaded cores.
    """
    population = simulated(40_000, 999)
    kept, refused, coverages = 0, 0, []
    for seed in range(200):
        made = calibrate(simulated(2000, seed), "mine", Promise(), leave_out=False)
        if made.gate is None:
            refused += 1
            kept += 1
            continue
        worse, coverage = harm(made, population)
        kept += worse <= 0.05
        coverages.append(coverage)
    print(f"kept {kept} of 200, refused {refused}, coverage {np.mean(coverages):.2f}")
    assert kept >= 190
    assert refused < 40
