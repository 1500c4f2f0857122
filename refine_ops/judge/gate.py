"""The gate: is a region published, on its evidence?

A calibrated gate is a small JSON file beside the weights it was fitted for. Without one the fixed rules alone decide.
Both go over numbers of `Evidence`; one that was not measured speaks neither for nor against.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from refine_ops.errors import JobError
from refine_ops.records import Evidence, Ruling

VERSION: Final = 1
"""Of the gate file; another one is refused."""
NAME: Final = "gate.json"
_BODY: Final = ("version", "model", "intercept", "curves", "surfaces", "threshold", "promise")

REASONS: Final[Mapping[str, str]] = {
    "judge.not_finite": "the model made values that are no numbers",
    "patch.blank": "the model made one flat colour",
    "judge.unchanged": "nothing changed",
    "judge.detail_lost": "softer than before",
    "judge.text_worse": "its text reads worse than before",
    "judge.reference_lost": "less like the reference than before",
    "judge.score": "not better with the certainty that was promised",
}
"""Why a region is held, by the name that a ruling carries."""

MOST_DETAIL_LOST: Final = 0.4
MOST_TEXT_LOST: Final = 0.1
MOST_REFERENCE_LOST: Final = 0.1
LEAST_CHANGE: Final = 0.05
"""Of `change`, in 1/255: below it a region is the source's own but for rounding."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one signal adds to a score: `points` at the values `at`, straight between them and level beyond; `absent`
    where it was not measured."""

    at: tuple[float, ...]
    points: tuple[float, ...]
    absent: float

    def of(self, value: float | None) -> float:
        """Points for a value."""
        if value is None or not math.isfinite(value):
            return self.absent
        return float(np.interp(value, self.at, self.points))

    @property
    def weight(self) -> float:
        """How far the signal can move a score."""
        return max(self.points) - min(self.points)


@dataclass(frozen=True, slots=True)
class Surface:
    """What two signals add together: `points` by the first one's values `at[0]` (rows) and the second one's `at[1]`,
    bilinear between them and level beyond; nothing where one of them was not measured."""

    of: tuple[str, str]
    at: tuple[tuple[float, ...], tuple[float, ...]]
    points: tuple[tuple[float, ...], ...]

    def of_values(self, one: float | None, other: float | None) -> float:
        """Points for two values."""
        if one is None or other is None or not (math.isfinite(one) and math.isfinite(other)):
            return 0.0
        columns = [float(np.interp(other, self.at[1], row)) for row in self.points]
        return float(np.interp(one, self.at[0], columns))

    @property
    def weight(self) -> float:
        """How far the two can move a score."""
        every = [point for row in self.points for point in row]
        return max(every) - min(every)


@dataclass(frozen=True, slots=True)
class Gate:
    """A calibrated score over the signals, and the threshold that keeps a promise.

    A region is published where no fixed rule speaks against it and its score, `intercept` and all points of curves and
    surfaces added up, is at least `threshold`. `promise` says that of what is published at most `max_harm` is worse,
    with which `confidence`, on how many cases that rests and what they were. `fingerprint` is the file's hash without
    its card.
    """

    model: str
    intercept: float
    curves: Mapping[str, Curve]
    surfaces: tuple[Surface, ...]
    threshold: float
    promise: Mapping[str, Any]
    fingerprint: str

    def score(self, evidence: Evidence) -> float:
        """Higher is better; a logit of `not worse`."""
        found = signals(evidence)
        alone = sum(curve.of(found[name]) for name, curve in self.curves.items())
        return self.intercept + alone + sum(s.of_values(*(found[name] for name in s.of)) for s in self.surfaces)

    def rule(self, evidence: Evidence) -> Ruling:
        """Accepted, or the reason."""
        score = self.score(evidence)
        reason = fixed_reason(evidence) or ("" if score >= self.threshold else "judge.score")
        return Ruling(not reason, reason, score)


def signals(evidence: Evidence) -> dict[str, float | None]:
    """The numbers of an evidence, and the differences that matter: what a score is made of."""
    found = {field.name: getattr(evidence, field.name) for field in fields(Evidence) if field.name != "finite"}
    found["text_gain"] = _less(evidence.text_after, evidence.text_before)
    found["reference_gain"] = _less(evidence.reference_after, evidence.reference_before)
    found["sharpness_gain"] = _less(evidence.sharpness_after, evidence.sharpness_before)
    found["sharpness_over"] = _less(evidence.sharpness_after, evidence.sharpness_around)
    found["detail_before"] = _less(evidence.detail_around, evidence.detail_gained)
    return found


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def fixed_reason(evidence: Evidence) -> str:
    """The first fixed rule that speaks against the region; empty where none does."""
    if not evidence.finite:
        return "judge.not_finite"
    if evidence.change is not None and evidence.change < LEAST_CHANGE:
        return "judge.unchanged"
    found = signals(evidence)
    if _below(found["text_gain"], -MOST_TEXT_LOST):
        return "judge.text_worse"
    if _below(found["reference_gain"], -MOST_REFERENCE_LOST):
        return "judge.reference_lost"
    if evidence.detail_lost is not None and evidence.detail_lost > MOST_DETAIL_LOST:
        return "judge.detail_lost"
    return ""


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


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
        return _parsed(path.read_bytes(), str(path))
    except OSError as e:
        raise JobError(f"{path}: no gate file ({e}); make one with refine-ops calibrate") from e


def gate_from(data: bytes | None, name: str) -> Gate | None:
    """A gate from its file's bytes; None for None.

    Raises:
        JobError: as `read_gate`; `name` is what it is called there.
    """
    return None if data is None else _parsed(data, name)


def _parsed(data: bytes, name: str) -> Gate:
    try:
        return gate_of(json.loads(data))
    except ValueError as e:
        raise JobError(f"{name}: no gate file ({e}); make one with refine-ops calibrate") from e


def gate_of(data: Any) -> Gate:
    """A gate from its file's JSON.

    Raises:
        ValueError: what is missing, or not known here.
    """
    try:
        body = {name: data[name] for name in _BODY}
        curves = {n: Curve(tuple(c["at"]), tuple(c["points"]), c["absent"]) for n, c in body["curves"].items()}
        surfaces = tuple(_surface(s) for s in body["surfaces"])
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{type(e).__name__}: {e}") from e
    used = {*curves, *(name for surface in surfaces for name in surface.of)}
    if body["version"] != VERSION or not signals(Evidence()).keys() >= used:
        raise ValueError(f"version {body['version']} over {', '.join(sorted(used))}; version {VERSION} is read here")
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return Gate(body["model"], body["intercept"], curves, surfaces, body["threshold"], body["promise"], digest)


def _surface(data: Any) -> Surface:
    one, other = data["of"]
    first, second = (tuple(at) for at in data["at"])
    return Surface((one, other), (first, second), tuple(tuple(row) for row in data["points"]))


def gate_file(gate: Gate, card: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a gate and, apart from what its fingerprint covers, of its card."""
    body = {name: value for name, value in asdict(gate).items() if name != "fingerprint"}
    return {"version": VERSION, **body, "card": dict(card)}
