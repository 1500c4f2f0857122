import json
from pathlib import Path

import pytest
from made_runs import MadeRun, photo_edit

from refine_ops.errors import JobError
from refine_ops.report.review import Decisions, apply_decisions, read_decisions, read_marks


@pytest.fixture
def run(tmp_path: Path) -> str:
    made = MadeRun(tmp_path / "run")
    for name in ("a", "b", "c"):
        made.add(name, photo_edit(1))
    return made.write()


def _decisions(run: str, **decided: str) -> Decisions:
    entries = [
        {"run": run, "item_id": name, "fingerprint": f"f-{name}", "decision": what, "note": "", "at": "2026-11-23"}
        for name, what in decided.items()
    ]
    body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": entries}
    return Decisions.model_validate(body)


def test_rejected_items_are_marked_and_nothing_else_changes(run: str) -> None:
    before = {p: p.read_bytes() for p in Path(run).rglob("*") if p.is_file()}
    apply_decisions(run, _decisions(run, a="reject", b="approve"), "exclude")
    assert {n: m.action for n, m in read_marks(run).items()} == {"a": "exclude", "b": "keep"}
    apply_decisions(run, _decisions(run, a="approve", c="reject"), "redo")
    assert {n: m.action for n, m in read_marks(run).items()} == {"a": "keep", "b": "keep", "c": "redo"}
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_stale_decision_is_refused_whole(run: str) -> None:
    decisions = _decisions(run, a="reject")
    stale = decisions.model_copy(
        update={"decisions": (*decisions.decisions, decisions.decisions[0].model_copy(update={"fingerprint": "old"}))}
    )
    with pytest.raises(JobError, match="does not have"):
        apply_decisions(run, stale)
    assert read_marks(run) == {}


def test_decisions_of_another_run_and_other_files_are_refused(run: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no decision is about"):
        apply_decisions(run, _decisions("/elsewhere", a="reject"))
    for body in ("", "[]", '{"schema": "other", "report": "r", "decisions": []}', json.dumps({"decisions": [{}]})):
        (tmp_path / "d.json").write_text(body)
        with pytest.raises(JobError, match=r"not a decisions\.json"):
            read_decisions(str(tmp_path / "d.json"))
