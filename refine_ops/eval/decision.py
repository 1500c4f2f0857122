"""Whether method B may replace method A: is it shown to be no worse? Paired gains (`compare`), clustered by case."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from refine_ops.eval.compare import Gain, paired_gain
from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.results import Results, paired
from refine_ops.eval.stats import cases_needed

PromotionVerdict = Literal["promote", "keep", "refuse"]
_MEANING: Final[dict[PromotionVerdict, str]] = {
    "promote": "the new adapter becomes current",
    "keep": "the incumbent stays",
    "refuse": "the cases cannot tell; the incumbent stays",
}


@dataclass(frozen=True, slots=True)
class Criterion:
    """What must not get worse by more than `delta`."""

    metric: Metric
    delta: float


@dataclass(frozen=True, slots=True)
class CriterionVerdict:
    """One criterion's verdict and why. `gain` is None where nothing could be compared; `cases_needed` is set where the
    cases are too few to tell."""

    name: str
    verdict: PromotionVerdict
    reason: str
    delta: float = 0.0
    gain: Gain | None = None
    cases_needed: int | None = None


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """Whether B may replace A, and why."""

    verdict: PromotionVerdict
    answers: tuple[CriterionVerdict, ...]

    @property
    def summary(self) -> str:
        """The verdict and the answers that made it."""
        decisive = [a.reason for a in self.answers if a.verdict == self.verdict]
        return f"{self.verdict}: {_MEANING[self.verdict]}. " + " ".join(decisive)

    @property
    def markdown(self) -> str:
        """A table for an artifact."""
        lines = ["| criterion | gain | 95 % interval | must exceed | cases | verdict |", "|---|---|---|---|---|---|"]
        for a in self.answers:
            numbers, cases = "not measured | ", 0
            if a.gain is not None:
                (low, high), cases = a.gain.interval, a.gain.result.n_cases
                numbers = f"{a.gain.mean:+.4g} | {low:+.4g} to {high:+.4g}"
            lines.append(f"| {a.name} | {numbers} | {0 - a.delta:.4g} | {cases} | {a.verdict} |")
        return f"**{self.summary}**\n\n" + "\n".join(lines) + "\n"


def decide(
    results: Results, a: str, b: str, criteria: Sequence[Criterion], *, min_cases: int, power: float
) -> PromotionDecision:
    """Promote method `b` over `a` only if every criterion's 95 % lower bound of the gain is above its -delta.

    A criterion whose estimate itself is at or below -delta keeps the incumbent `a`; one whose interval is merely too
    wide refuses, and says how many cases would tell, with the given power, a gain as large as the one estimated.
    Inputs on which only `b` fails keep the incumbent: they are in no comparison.
    """
    answers = [_answer(results, a, b, criterion, min_cases, power) for criterion in criteria]
    failed = results.failures(b).keys() - results.failures(a).keys()
    if failed:
        answers.append(CriterionVerdict("failures", "keep", f"{len(failed)} inputs that {a} refines fail with {b}."))
    verdicts = {answer.verdict for answer in answers}
    verdict: PromotionVerdict = "keep" if "keep" in verdicts else "refuse" if "refuse" in verdicts else "promote"
    return PromotionDecision(verdict, tuple(answers))


def _answer(results: Results, a: str, b: str, criterion: Criterion, min_cases: int, power: float) -> CriterionVerdict:
    name, delta = criterion.metric.name, criterion.delta
    cases = len(set(paired(results, a, b, criterion.metric.name)[2]))
    if cases < 2:
        reason = f"{name}: measured on {cases} cases, at least {min_cases} are needed."
        return CriterionVerdict(name, "refuse", reason, delta, None, min_cases)
    gain = paired_gain(results, a, b, criterion.metric)
    assert gain is not None
    low, high = gain.interval
    found = f"gain {gain.mean:+.4g} (95 % interval {low:+.4g} to {high:+.4g}, {cases} cases)"
    if gain.mean <= -delta and low <= -delta:
        return CriterionVerdict(name, "keep", f"{name}: {found}; not above {-delta:.4g}.", delta, gain)
    if low > -delta and cases >= min_cases:
        return CriterionVerdict(name, "promote", f"{name}: {found}.", delta, gain)
    needed = max(min_cases, cases_needed(gain.result, gain.mean + delta, power=power))
    return CriterionVerdict(
        name, "refuse", f"{name}: {found}; a decision takes about {needed} cases.", delta, gain, needed
    )
