"""Review decisions as judged results."""

from dataclasses import replace
from pathlib import Path

import pytest

from refine_ops.errors import JobError
from refine_ops.eval.gates.reviews import reviewed_results
from refine_ops.job.ledger import outcomes_table, write_part
from refine_ops.records import Alignment, Evidence, Outcome, RegionOutcome, Ruling
from refine_ops.report.review import Decisions, apply_decisions
from tests.support.made_runs import MadeRun, photo_edit


def region(region_id: str, gained: float, *, accepted: bool = True) -> RegionOutcome:
    box = (0, 0, 8, 8)
    made = RegionOutcome(region_id, 1, box, box, 8, 8, 1, 8, 5.0, 1, "none", Alignment())
    ruling = Ruling(accepted, "" if accepted else "judge.score")
    return replace(made, evidence=Evidence(change=5.0, detail_gained=gained), ruling=ruling)


@pytest.fixture
def run(tmp_path: Path) -> str:
    made = MadeRun(tmp_path / "run")
    for name in "abcde":
        made.add(name, photo_edit(1))
    uri = made.write()
    regions = {
        "a": (region("r0", 0.1),),
        "b": (region("r0", 0.2), region("r1", 0.3, accepted=False)),
        "c": (region("r0", 0.4), region("r1", 0.5)),
        "d": (region("r0", 0.6, accepted=False),),
        "e": (region("r0", 0.7),),
    }
    outcomes = [
        Outcome(name, f"f-{name}", "held" if name == "d" else "done", regions=of, start=1, finished_at=2e9)
        for name, of in regions.items()
    ]
    write_part(f"{uri}/outcomes", outcomes_table(outcomes), "judged")
    return uri


def decide(run: str, **decided: str) -> None:
    rows = [
        {"run": run, "item_id": name, "fingerprint": f"f-{name}", "decision": what, "note": "", "at": "2026-11-23"}
        for name, what in decided.items()
    ]
    body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": rows}
    apply_decisions(run, Decisions.model_validate(body))


def test_what_a_person_saw_and_decided_is_a_result(run: str) -> None:
    decide(run, a="reject", b="approve", c="reject", d="approve")
    found = sorted((r.case, r.evidence.detail_gained, r.worse) for r in reviewed_results(run))
    # Of b the held region was not to be seen; of c nobody knows which of two regions was meant.
    assert found == [("a", 0.1, True), ("b", 0.2, False), ("d", 0.6, False)]
    decide(run, a="approve", d="reject")
    found = sorted((r.case, r.worse) for r in reviewed_results(run))
    assert found == [("a", False), ("b", False), ("d", True)]


def test_a_run_without_decisions_has_nothing_to_say(run: str) -> None:
    with pytest.raises(JobError, match="no review decisions"):
        reviewed_results(run)
