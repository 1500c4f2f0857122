"""The gate: is a region published, on its evidence?

A calibrated gate is a small JSON file beside the weights it was fitted for. Without one the fixed rules alone decide.
Both go over numbers of `Evidence`; one that was not measured speaks neither for nor against.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from refine_ops.errors import JobError
from refine_ops.records import Evidence

VERSION: Final = 1
"""Of the gate file; another one is refused."""
NAME: Final = "gate.json"

REASONS: Final[Mapping[str, str]] = {
    "judge.not_finite": "the model made values that are no numbers",
    "judge.unchanged": "nothing changed",
    "judge.detail_lost": "softer than before",
    "judge.text_worse": "its text reads worse than before",
    "judge.reference_lost": "less like the reference than before",
    "judge.score": "not better with the certainty that was promised",
}
"""Why a region is held, by the name that a ruling carries."""

MOST_DETAIL_LOST: Final = 0.35
MOST_TEXT_LOST: Final = 0.1
MOST_REFERENCE_LOST: Final = 0.05
LEAST_CHANGE: Final = 0.05
"""Of `change`, in 1/255: below it a region is the source's own but for rounding."""
_REACH: Final = 4.0
"""Spreads an evidence counts at most, either way."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """`reason` is empty where accepted, else one of `REASONS`; `score` is the gate's, None under fixed rules alone."""

    accepted: bool
    reason: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A calibrated score over the evidence, and the threshold that keeps a promise.

    The score is `intercept` plus, for each evidence, its weight times its value scaled (`(value - centre) / spread`,
    cut to +-4), or the weight of its absence. A region is published where no fixed rule speaks against it and
    the score is at least `threshold`. `promise` says at most which share of what is published is worse
    (`max_harm`) with which `confidence`, and on how many cases that rests.
    """

    model: str
    intercept: float
    weights: Mapping[str, float]
    centres: Mapping[str, float]
    spreads: Mapping[str, float]
    absent: Mapping[str, float]
    threshold: float
    promise: Mapping[str, Any]
    fingerprint: str

    def score(self, evidence: Evidence) -> float:
        """Higher is better; the logit of `not worse` as fitted."""
        total = self.intercept
        for name, weight in self.weights.items():
            value = getattr(evidence, name)
            if value is None or not math.isfinite(value):
                total += self.absent[name]
            else:
                scaled = (float(value) - self.centres[name]) / self.spreads[name]
                total += weight * min(max(scaled, -_REACH), _REACH)
        return total

    def rule(self, evidence: Evidence) -> Ruling:
        """Accepted, or the reason."""
        score = self.score(evidence)
        if reason := fixed_reason(evidence):
            return Ruling(False, reason, score)
        accepted = score >= self.threshold
        return Ruling(accepted, "" if accepted else "judge.score", score)


def fixed_reason(evidence: Evidence) -> str:
    """The first fixed rule that speaks against the region; empty where none does."""
    if not evidence.finite:
        return "judge.not_finite"
    if evidence.change is not None and evidence.change < LEAST_CHANGE:
        return "judge.unchanged"
    if _lost(evidence.text_before, evidence.text_after, MOST_TEXT_LOST):
        return "judge.text_worse"
    if _lost(evidence.reference_before, evidence.reference_after, MOST_REFERENCE_LOST):
        return "judge.reference_lost"
    if evidence.detail_lost is not None and evidence.detail_lost > MOST_DETAIL_LOST:
        return "judge.detail_lost"
    return ""


def _lost(before: float | None, after: float | None, most: float) -> bool:
    return before is not None and after is not None and after < before - most


def rule(evidence: Evidence, gate: Gate | None = None) -> Ruling:
    """By the gate, or by the fixed rules where there is none."""
    if gate is not None:
        return gate.rule(evidence)
    reason = fixed_reason(evidence)
    return Ruling(not reason, reason)


def gate_for(model: str, adapter: str | None = None) -> Gate | None:
    """The gate that was calibrated for what makes the pixels; None where there is none.

    Args:
        model: `tiny`, `transfer`, or a folder of weights.
        adapter: a folder with an adapter; its gate is its own, never its base model's.

    Raises:
        JobError: the file is there and cannot be read.
    """
    path = Path(adapter) / NAME if adapter else SHIPPED.get(model, Path(model) / NAME)
    return read_gate(path) if path.is_file() else None


_MODELS: Final = Path(__file__).parent.parent / "model"
SHIPPED: Final[Mapping[str, Path]] = {
    "tiny": _MODELS / "tiny" / "weights" / NAME,
    "transfer": _MODELS / "transfer_gate.json",
}


def read_gate(path: Path) -> Gate:
    """
    Raises:
        JobError: no gate file, or one of another version or with evidence that is not known here.
    """
    try:
        data = json.loads(path.read_text())
        version = data.pop("version")
        data.pop("card", None)
        gate = Gate(**data, fingerprint=hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise JobError(f"{path}: no gate file ({type(e).__name__}: {e}); make one with refine-ops calibrate") from e
    known = {field.name for field in fields(Evidence)}
    if version != VERSION or not known.issuperset(gate.weights):
        raise JobError(
            f"{path}: version {version} over {sorted(gate.weights)}, expected {VERSION} over evidence that is measured "
            "here; calibrate again"
        )
    return gate
