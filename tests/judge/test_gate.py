"""Rulings: fixed rules, a gate's score, gates found beside their weights."""

import json
from pathlib import Path

import pytest

from refine_ops.errors import JobError
from refine_ops.judge.gate import REASONS, Ruling, gate_for, read_gate, rule
from refine_ops.records import Evidence

GATE = {
    "version": 1,
    "model": "mine",
    "intercept": 0.5,
    "curves": {"detail_gained": {"at": [0.0, 1.0, 2.0], "points": [-2.0, 0.0, 4.0], "absent": -3.0}},
    "surfaces": [{"of": ["grain", "zoom"], "at": [[0.0, 1.0], [1.0, 2.0]], "points": [[0.0, 0.0], [0.0, 8.0]]}],
    "threshold": 0.0,
    "promise": {"max_harm": 0.05, "confidence": 0.95, "cases": 200},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gate.json").write_text(json.dumps(GATE))
    return tmp_path


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(), ""),
        (Evidence(finite=False), "judge.not_finite"),
        (Evidence(change=0.0), "judge.unchanged"),
        (Evidence(change=9.0, detail_lost=0.9), "judge.detail_lost"),
        (Evidence(text_before=0.9, text_after=0.3), "judge.text_worse"),
        (Evidence(reference_before=0.8, reference_after=0.5), "judge.reference_lost"),
        (Evidence(reference_before=None, reference_after=0.5, text_before=0.9), ""),
    ],
)
def test_the_fixed_rules_hold_what_is_plainly_worse(evidence: Evidence, reason: str) -> None:
    assert rule(evidence) == Ruling(not reason, reason)
    assert not reason or REASONS[reason]


def test_a_gate_scores_what_was_measured_and_what_was_not(folder: Path) -> None:
    gate = gate_for(str(folder))
    assert gate is not None
    assert gate.rule(Evidence(change=9.0, detail_gained=1.5)) == Ruling(True, "", 2.5)
    assert gate.rule(Evidence(change=9.0, detail_gained=0.5)) == Ruling(False, "judge.score", -0.5)
    assert gate.rule(Evidence(change=9.0, detail_gained=1e9)).score == pytest.approx(4.5)
    assert gate.rule(Evidence(change=9.0)).score == pytest.approx(-2.5)
    assert gate.rule(Evidence(change=9.0, detail_gained=9.0, detail_lost=0.9)).reason == "judge.detail_lost"


def test_two_signals_count_together_where_both_were_measured(folder: Path) -> None:
    gate = read_gate(folder / "gate.json")
    plain = gate.score(Evidence(detail_gained=1.0))
    assert plain == pytest.approx(0.5)
    for values, points in (((None, 1.0), 0), ((1.0, 1.0), 0), ((0.5, 2.0), 4), ((0.5, 1.5), 2), ((9.0, 9.0), 8)):
        grain, zoom = values
        assert gate.score(Evidence(detail_gained=1.0, grain=grain, zoom=zoom)) == pytest.approx(plain + points)


def test_a_models_gate_is_not_its_adapters(folder: Path, tmp_path: Path) -> None:
    assert gate_for(str(folder), adapter=str(tmp_path / "adapter")) is None
    assert gate_for(str(tmp_path / "nowhere")) is None


def test_a_gate_file_of_another_make_is_refused(folder: Path) -> None:
    first = read_gate(folder / "gate.json").fingerprint
    (folder / "gate.json").write_text(json.dumps(GATE | {"threshold": 1.0}))
    assert read_gate(folder / "gate.json").fingerprint != first
    for broken in (
        GATE | {"version": 2},
        GATE | {"curves": {"luck": GATE["curves"]["detail_gained"]}},
        {"version": 1},
        [],
    ):
        (folder / "gate.json").write_text(json.dumps(broken))
        with pytest.raises(JobError, match="calibrate"):
            read_gate(folder / "gate.json")
