"""Whether a new adapter may replace the incumbent: paired comparisons on held-out inputs, clustered by case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from refine_ops.eval.stats import PairedResult, cases_needed, paired_comparison

Verdict = Literal["promote", "keep", "refuse"]
Scores = Mapping[str, tuple[str, float]]
"""Case id and value by input id."""

_MEANING: Final = {
    "promote": "the new adapter becomes current",
    "keep": "the incumbent stays",
    "refuse": "the cases cannot tell; the incumbent stays",
}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that must not get worse by more than `delta`, scored on the same inputs; `higher`: more is better."""

    name: str
    incumbent: Scores
    candidate: Scores
    higher: bool
    delta: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One criterion judged. `result` is the gain (positive is better); None where nothing could be compared.

    `cases_needed` is set where the cases are too few to tell.
    """

    name: str
    verdict: Verdict
    sentence: str
    delta: float
    result: PairedResult | None = None
    cases_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer, and why."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def sentence(self) -> str:
        """The verdict and the findings that made it."""
        decisive = [f.sentence for f in self.findings if f.verdict == self.verdict]
        return f"{self.verdict}: {_MEANING[self.verdict]}. " + " ".join(decisive)

    @property
    def markdown(self) -> str:
        """A table for an artifact."""
        lines = ["| criterion | gain | 95 % interval | must exceed | cases | verdict |", "|---|---|---|---|---|---|"]
        for f in self.findings:
            r = f.result
            numbers = f"{r.difference:+.4g} | {r.low:+.4g} to {r.high:+.4g}" if r else "not measured | "
            lines.append(f"| {f.name} | {numbers} | {0 - f.delta:.4g} | {r.n_cases if r else 0} | {f.verdict} |")
        return f"**{self.sentence}**\n\n" + "\n".join(lines) + "\n"


def decide(criteria: Sequence[Criterion], *, min_cases: int, power: float, failed: int = 0) -> Decision:
    """Promote only if every criterion's 95 % lower bound of the gain is above its -delta.

    A criterion whose estimate itself is at or below -delta keeps the incumbent; one whose interval is merely too wide
    refuses, and says how many cases would tell, with the given power, a gain as large as the one estimated.

    Args:
        failed: Inputs that the incumbent refines and the candidate cannot; any keeps the incumbent, for such inputs
            are in no comparison.
    """
    findings = [_judge(criterion, min_cases, power) for criterion in criteria]
    if failed:
        sentence = f"{failed} inputs that the incumbent refines fail with the new adapter."
        findings.append(Finding("failures", "keep", sentence, 0.0))
    verdicts = {finding.verdict for finding in findings}
    verdict: Verdict = "keep" if "keep" in verdicts else "refuse" if "refuse" in verdicts else "promote"
    return Decision(verdict, tuple(findings))


def _judge(criterion: Criterion, min_cases: int, power: float) -> Finding:
    common = sorted(criterion.incumbent.keys() & criterion.candidate.keys())
    cases = [criterion.incumbent[name][0] for name in common]
    name, delta = criterion.name, criterion.delta
    if len(set(cases)) < 2:
        sentence = f"{name}: measured on {len(set(cases))} cases, at least {min_cases} are needed."
        return Finding(name, "refuse", sentence, delta, None, min_cases)
    sign = 1.0 if criterion.higher else -1.0
    before, after = ([sign * side[name_][1] for name_ in common] for side in (criterion.incumbent, criterion.candidate))
    result = paired_comparison(before, after, cases)
    gain = (
        f"gain {result.difference:+.4g} (95 % interval {result.low:+.4g} to {result.high:+.4g}, {result.n_cases} cases)"
    )
    if result.difference <= -delta and result.low <= -delta:
        return Finding(name, "keep", f"{name}: {gain}; not above {-delta:.4g}.", delta, result)
    if result.low > -delta and result.n_cases >= min_cases:
        return Finding(name, "promote", f"{name}: {gain}.", delta, result)
    needed = max(min_cases, cases_needed(result, result.difference + delta, power=power))
    sentence = f"{name}: {gain}; a decision takes about {needed} cases."
    return Finding(name, "refuse", sentence, delta, result, needed)
