import json
import os
import time
from pathlib import Path

import pytest

from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job.ledger import read_ledger
from refine_ops.job.starts import open_start
from refine_ops.report.review import Action, Decisions, apply_decisions, read_decisions, read_marks
from tests.support.made_runs import MadeRun, photo_edit
from tests.support.node import FAST, make_items, outputs_of, run_node


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


def test_decisions_count_in_the_order_they_were_applied_whatever_the_clocks_say(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at, (decided, action) in enumerate([("reject", "exclude"), ("approve", "keep"), ("reject", "exclude")]):
        monkeypatch.setattr(time, "time_ns", lambda at=at: (9 - at) * 10**18)
        apply_decisions(run, _decisions(run, a=decided), "exclude")
        assert read_marks(run)["a"].action == action
        if at == 1:
            open_start(run, {}).close("done")
    names = sorted(path.name for path in (Path(run) / "review").iterdir())
    first = int(names[0].split("-")[1])
    assert names == [f"marks-{first:08d}-0001.json", f"marks-{first:08d}-0002.json", f"marks-{first + 1:08d}-0001.json"]

    # What an earlier release wrote comes before all of them, and its own in the order of their times.
    for time_ns, action in ((17 * 10**17, "keep"), (18 * 10**17, "redo")):
        mark = {"item_id": "b", "fingerprint": "f-b", "action": action, "note": "", "at": ""}
        text = json.dumps({"schema": "refine-ops/marks/1", "marks": [mark, {**mark, "item_id": "a"}]})
        (Path(run) / "review" / f"marks-{time_ns:020d}.json").write_text(text)
    assert {name: mark.action for name, mark in read_marks(run).items()} == {"a": "exclude", "b": "redo"}


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


@pytest.mark.processes
def test_the_next_start_redoes_what_was_rejected_and_leaves_out_what_was_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(tmp_path / "published.log"))
    config = RefineBatchConfig(manifest=str(make_items(tmp_path / "images", 6)), out=str(tmp_path / "run"), worker=FAST)
    run_node(config)
    first, ledger = outputs_of(tmp_path / "run"), read_ledger(str(tmp_path / "run" / "outcomes"), ["fingerprint"])
    made = dict(zip(ledger["item_id"].to_pylist(), ledger["fingerprint"].to_pylist(), strict=True))

    def decide(item: str, action: Action) -> None:
        entry = {"run": config.out, "item_id": item, "fingerprint": made[item], "decision": "reject"}
        body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": [entry | {"note": "", "at": ""}]}
        apply_decisions(config.out, Decisions.model_validate(body), action)

    decide("item-0002", "redo")
    decide("item-0004", "exclude")
    assert run_node(config).counts.done == 1
    second = outputs_of(tmp_path / "run")
    assert {name for name in first if first[name] != second[name]} == {"item-0002.png"}, "by another seed"
    assert second.keys() == first.keys(), "what was published stays; an excluded item is only not done again"
    assert run_node(config).counts.done == 0, "once is enough"
