"""What the report says of the gate's promise, and of what people found who looked."""

import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from refine_ops.report.build import build_report
from refine_ops.report.config import DriftReportConfig, MeasureSettings
from refine_ops.report.promise import promise_in_words
from refine_ops.report.review import Decisions, Reviewed, apply_decisions, count_reviewed
from tests.support.made_runs import MadeRun, photo_edit

PROMISE: dict[str, Any] = {
    "max_harm": 0.05,
    "confidence": 0.95,
    "worse": 3,
    "cases": 180,
    "at_most": 0.0425,
    "about": "",
}


def _decide(run: str, **decided: str) -> None:
    entries = [
        {"run": run, "item_id": n, "fingerprint": f"f-{n}", "decision": what, "note": "", "at": ""}
        for n, what in decided.items()
    ]
    body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": entries}
    apply_decisions(run, Decisions.model_validate(body))


def test_the_first_screen_says_what_is_promised_and_how_it_fares(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.promises = {"model": PROMISE}
    for seed, name in enumerate("abcd"):
        run.add(name, photo_edit(seed))
    run.add_held("h", photo_edit(9).smeared(), "judge.detail_lost", "softer")
    uri = run.write()
    _decide(uri, a="reject", b="approve", h="reject")
    _decide(uri, b="approve", c="approve")
    assert count_reviewed(uri) == Reviewed(3, 1), "an output counts once, and what was held is not among the published"
    built = build_report(DriftReportConfig(runs=(uri,), out=str(tmp_path / "r"), measure=MeasureSettings(processes=1)))
    promised, fares = built.summary["promise"]
    assert "at most 5% is worse" in promised
    assert "3 of 180" in promised
    assert "rejected 1 of 3 outputs" in fares
    page = Path(built.page).read_text()
    assert page.index(promised) < page.index("What is typical")


@pytest.mark.parametrize(("outputs", "rejected"), [(50, 2), (60, 9), (7, 0), (4, 4)])
def test_the_interval_is_clopper_and_pearsons(outputs: int, rejected: int) -> None:
    """The peer is SciPy's exact two-sided interval. More than was promised is said only where chance cannot be it."""
    said = promise_in_words([{"model": PROMISE}], Reviewed(outputs, rejected))[-1]
    low, high = (float(x) / 100 for x in re.findall(r"([\d.]+)% to ([\d.]+)%", said)[0])
    peer = binomtest(rejected, outputs).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.0006)
    assert ("more than was promised" in said) == (peer.low > 0.05)


def test_nothing_is_said_to_be_promised_where_nothing_is() -> None:
    assert promise_in_words([None], Reviewed()) == [], "a record from before promises were kept"
    assert promise_in_words([{}], Reviewed()) == [
        "No calibrated gate ruled here: nobody promises how much of what is published is worse."
    ]
    both = promise_in_words([{"model": PROMISE, "transfer": PROMISE}, {"model": PROMISE}], Reviewed())
    assert [line.split(" makes")[0] for line in both] == ["Promised of what the model", "Promised of what transfer"]
