"""The ledger: what is recorded is never lost, and of several records the latest counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from refine_ops.config import AccessSettings
from refine_ops.job.inputs import identity_of
from refine_ops.job.ledger import LedgerWriter, compact, dead_letter, outcomes_table, read_ledger, write_part
from refine_ops.job.planning.plan import PlanReader, make_plan, problem_outcomes, request_of
from refine_ops.job.planning.remaining import remaining
from refine_ops.records import Alignment, Outcome, RegionOutcome, Verification

from .test_manifest import nested, write

REGION = RegionOutcome(
    *("logo", 5, (1, 2, 3, 4), (0, 0, 8, 8), 64, 64, 30, 8, 3.5, 1, "none"), Alignment(True, True, False, 0.5, -0.25)
)
DONE = Outcome(
    item_id="a",
    fingerprint="f",
    status="done",
    regions=(REGION,),
    verification=Verification("pillow", 30, 28, 0, 0, 0, True),
    timings_s={"read": 0.5},
    finished_at=1.0,
)


def test_an_outcome_survives_parquet_with_all_its_parts(folder: Path) -> None:
    write_part(str(folder), outcomes_table([DONE]), "r0")
    (row,) = read_ledger(str(folder)).to_pylist()
    assert row["regions"][0]["alignment"]["dy_px"] == -0.25
    assert row["regions"][0]["crop"] == [0, 0, 8, 8]
    assert row["verification"]["changed_outside_px"] == 0
    assert dict(row["timings_s"]) == {"read": 0.5}


def test_the_latest_outcome_of_an_item_counts_in_whatever_order_parts_are_read(folder: Path) -> None:
    later = replace(DONE, status="dead", reason="mask.empty", finished_at=2.0)
    for part in ([later, replace(DONE, item_id="b")], [DONE]):
        write_part(str(folder), outcomes_table(part), "r0")
    ledger = read_ledger(str(folder), ["status"])
    assert dict(zip(ledger["item_id"].to_pylist(), ledger["status"].to_pylist(), strict=True)) == {
        "a": "dead",
        "b": "done",
    }
    assert dead_letter(read_ledger(str(folder))).to_pylist()[0]["reason"] == "mask.empty"


def test_parts_are_written_by_count_and_by_time(folder: Path) -> None:
    by_count = LedgerWriter(str(folder / "count"), "r0", flush_items=2, flush_s=1e9)
    for i in range(5):
        by_count.add(replace(DONE, item_id=str(i)))
    assert read_ledger(str(folder / "count")).num_rows == 4
    by_count.flush()
    assert read_ledger(str(folder / "count")).num_rows == 5
    by_time = LedgerWriter(str(folder / "time"), "r0", flush_items=1000, flush_s=0.0)
    by_time.add(DONE)
    assert read_ledger(str(folder / "time")).num_rows == 1


def test_a_corrupt_part_is_left_out_loudly_and_kept_by_compaction(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_part(str(folder), outcomes_table([DONE]), "r0")
    write_part(str(folder), outcomes_table([replace(DONE, item_id="b")]), "r1")
    (folder / "part-x.parquet").write_bytes(b"PAR1 half a part")
    assert set(read_ledger(str(folder))["item_id"].to_pylist()) == {"a", "b"}
    assert "part-x.parquet is unreadable" in caplog.text
    compact(str(folder))
    assert len(list(folder.iterdir())) == 2
    assert set(read_ledger(str(folder))["item_id"].to_pylist()) == {"a", "b"}


def test_remaining_skips_what_is_done_and_redoes_what_changed(folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folder / name).write_bytes(b"x")
    rows = [{**nested()[0], "item_id": n, "image": f"{n}.jpg"} for n in "abcd"]
    plan = PlanReader(make_plan(write(folder / "m.jsonl", rows), str(folder), access=AccessSettings()).uri)
    items = [plan.item(i)[0] for i in range(4)]
    known = [
        replace(DONE, item_id=i.item_id, request=request_of(i), identity=identity_of(i), status=status)
        for i, status in zip(items[:3], ["done", "dead", "done"], strict=True)
    ]
    known[2] = replace(known[2], request="asked for something else")
    ledger = outcomes_table(known)
    found = remaining(plan, ledger, recheck=True, retry_dead=False)
    assert found.positions.tolist() == [2, 3]
    assert found.replace.tolist() == [True, False]
    assert (found.done, found.dead) == (1, 1)
    assert remaining(plan, ledger, recheck=True, retry_dead=True).positions.tolist() == [1, 2, 3]
    (folder / "a.jpg").write_bytes(b"another picture")
    assert remaining(plan, ledger, recheck=True, retry_dead=False).positions.tolist() == [0, 2, 3]
    assert remaining(plan, ledger, recheck=False, retry_dead=False).positions.tolist() == [2, 3]


def test_a_bad_row_is_dead_lettered_once(folder: Path) -> None:
    manifest = write(folder / "m.jsonl", [{**nested()[0], "regions": []}, nested()[1]])
    plan = make_plan(manifest, str(folder / "run"), access=AccessSettings())
    (outcome,) = problem_outcomes(plan.problems, outcomes_table([]))
    assert (outcome.reason, outcome.row, plan.items) == ("regions.none", 0, 1)
    assert problem_outcomes(plan.problems, outcomes_table([outcome])) == []
