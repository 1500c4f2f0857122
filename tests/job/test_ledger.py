"""The ledger: what is recorded is never lost, and of several records the latest counts."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import JobError
from refine_ops.job.inputs import identity_of
from refine_ops.job.ledger import (
    OUTCOME_SCHEMA,
    OUTCOME_VERSION,
    LedgerWriter,
    compact,
    dead_letter,
    latest_in_parts,
    outcomes_table,
    read_ledger,
    read_parts,
    write_part,
)
from refine_ops.job.planning.known import known_of
from refine_ops.job.planning.plan import PlanReader, make_plan, problem_outcomes, request_of
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.starts import open_start
from refine_ops.records import Alignment, Outcome, RegionOutcome, Verification
from tests.support.manifests import nested, write

REGION = RegionOutcome(
    "logo",
    5,
    (1, 2, 3, 4),
    (0, 0, 8, 8),
    64,
    64,
    30,
    8,
    3.5,
    1,
    "none",
    Alignment(True, True, False, 0.5, -0.25),
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


def test_the_latest_starts_outcome_counts_whatever_the_clocks_and_the_order_of_parts_say(folder: Path) -> None:
    fast_clock = replace(DONE, start=1, finished_at=9.0)
    later = replace(DONE, start=2, status="dead", reason="mask.empty", finished_at=2.0)
    for part in ([later, replace(DONE, item_id="b")], [fast_clock]):
        write_part(str(folder), outcomes_table(part), "r0")
    ledger = read_ledger(str(folder), ["status"])
    assert dict(zip(ledger["item_id"].to_pylist(), ledger["status"].to_pylist(), strict=True)) == {
        "a": "dead",
        "b": "done",
    }
    assert dead_letter(read_ledger(str(folder))).to_pylist()[0]["reason"] == "mask.empty"


def test_within_a_start_done_beats_dead(folder: Path) -> None:
    """Two lanes may hold one item, and one of them may have lost its store."""
    dead = replace(DONE, start=1, status="dead", reason="file.missing", finished_at=9.0)
    write_part(str(folder), outcomes_table([dead, replace(DONE, start=1)]), "r0")
    assert read_ledger(str(folder), ["status"])["status"].to_pylist() == ["done"]


def test_outcomes_of_a_start_that_its_canary_refused_count_for_nothing(folder: Path) -> None:
    start = open_start(str(folder), {})
    write_part(str(folder / "outcomes"), outcomes_table([replace(DONE, start=start.number)]), "r0")
    assert read_ledger(str(folder / "outcomes")).num_rows == 1
    start.void()
    start.close("canary")
    assert read_ledger(str(folder / "outcomes")).num_rows == 0


def test_part_by_part_is_what_is_read_at_once(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for start in range(1, 6):
        names = rng.choice(list("abcdefghijklmnopqrst"), 7)
        told = [
            replace(DONE, item_id=name, start=start, status=str(rng.choice(["done", "held", "dead"])), finished_at=at)
            for at, name in enumerate(names)
        ]
        write_part(str(folder), outcomes_table(told), f"r{start}")
    items = pa.array(list("abcdefghijklmno"))
    parts = list(latest_in_parts(str(folder), ["status", "regions"], items))
    assert len(parts) > 2
    whole = read_ledger(str(folder), ["status", "regions"], items=items)
    assert pa.concat_tables(parts).sort_by("item_id").equals(whole.sort_by("item_id"))
    assert list(latest_in_parts(str(folder / "none"), [], items)) == []


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
    assert "part-x.parquet is damaged" in caplog.text
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
    ledger = known_of(outcomes_table(known), plan)
    found = remaining(plan, ledger, recheck=True, retry_dead=False)
    assert found.positions.tolist() == [2, 3]
    assert (found.done, found.dead) == (1, 1)
    assert remaining(plan, ledger, recheck=True, retry_dead=True).positions.tolist() == [1, 2, 3]
    (folder / "a.jpg").write_bytes(b"another picture")
    assert remaining(plan, ledger, recheck=True, retry_dead=False).positions.tolist() == [0, 2, 3]
    assert remaining(plan, ledger, recheck=False, retry_dead=False).positions.tolist() == [2, 3]


def test_a_bad_row_is_dead_lettered_once(folder: Path) -> None:
    manifest = write(folder / "m.jsonl", [{**nested()[0], "regions": []}, nested()[1]])
    plan = make_plan(manifest, str(folder / "run"), access=AccessSettings())
    (outcome,) = problem_outcomes(plan.problems, outcomes_table([]), 1)
    assert (outcome.reason, outcome.row, plan.items) == ("regions.none", 1, 1)
    assert problem_outcomes(plan.problems, outcomes_table([outcome]), 2) == []


def old_part(folder: Path, table: pa.Table, version: str | None = None) -> None:
    """A part as another release left it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(version and {"refine_ops.outcome": version}), sink)
    data = sink.getvalue().to_pybytes()
    (folder / f"part-0-old-{storage.sha256(data)[:16]}.parquet").write_bytes(data)


def test_a_part_that_is_there_and_cannot_be_read_stops_the_start(folder: Path) -> None:
    write_part(str(folder), outcomes_table([DONE]), "r0")
    os.mkfifo(folder / "part-00000000-1-r0-0123456789abcdef.parquet")  # what nobody can read, root neither
    with pytest.raises(JobError, match=r"0123456789abcdef.parquet is there and cannot be read .*refined once more"):
        read_ledger(str(folder), ["status"])
    with pytest.raises(JobError, match="cannot be read"):
        compact(str(folder))
    assert len(list(folder.iterdir())) == 2


def test_who_looks_again_soon_goes_on_with_what_can_be_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = write_part(str(folder), outcomes_table([DONE]), "r0")
    os.mkfifo(folder / "part-1.parquet")
    assert read_parts([str(folder / "part-1.parquet"), uri], [], skip_unreachable=True).keys() == {uri}
    assert "part-1.parquet cannot be read just now" in caplog.text


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(JobError, match="cannot list"):
        read_ledger(str(folder / "loop"))
    assert read_ledger(str(folder / "absent")).num_rows == 0


def test_a_part_of_an_older_release_is_read_with_defaults_for_what_it_lacks(folder: Path) -> None:
    table = outcomes_table([DONE, replace(DONE, item_id="b", regions=(), verification=None)])
    regions = table["regions"].combine_chunks()
    kept = [regions.values.field(f.name) for f in regions.values.type if f.name != "alignment"]
    narrower = pa.StructArray.from_arrays(kept, fields=[f for f in regions.values.type if f.name != "alignment"])
    older = table.drop_columns(["regions", "attempts", "category"]).append_column(
        "regions", pa.ListArray.from_arrays(regions.offsets, narrower)
    )
    old_part(folder, older.append_column("gone_since", pa.array([1, 2])))
    write_part(str(folder), outcomes_table([replace(DONE, item_id="c", attempts=3)]), "r0")
    found = {row["item_id"]: row for row in read_ledger(str(folder)).to_pylist()}
    assert [found[name]["attempts"] for name in "abc"] == [1, 1, 3]
    assert found["a"]["category"] == ""
    assert found["a"]["regions"][0]["crop"] == [0, 0, 8, 8]
    assert found["a"]["regions"][0]["alignment"] is None, "it has no default: nobody measured it"
    assert found["b"]["regions"] == []
    assert found["c"]["regions"][0]["alignment"]["dy_px"] == -0.25
    assert found["a"]["verification"]["changed_px"] == 28
    assert read_ledger(str(folder), ["attempts"]).num_rows == 3
    compact(str(folder))
    again = {row["item_id"]: row for row in read_ledger(str(folder)).to_pylist()}
    assert again == found


def test_a_part_of_a_newer_release_is_refused(folder: Path) -> None:
    old_part(folder, outcomes_table([DONE]), version=str(OUTCOME_VERSION + 1))
    with pytest.raises(JobError, match="written by a newer release"):
        read_ledger(str(folder), [])


def test_within_a_start_done_counts_before_held_and_held_before_dead(folder: Path) -> None:
    dead, held = (replace(DONE, status=status, finished_at=9.0) for status in ("dead", "held"))
    for name, found, expected in (
        ("a", [held, DONE, dead], "done"),
        ("b", [dead, held], "held"),
        ("c", [dead, replace(dead, start=1, status="held")], "held"),
        ("d", [DONE, replace(held, start=1)], "held"),
    ):
        write_part(str(folder), outcomes_table([replace(o, item_id=name) for o in found]), "r0")
        (row,) = [r for r in read_ledger(str(folder), ["status"]).to_pylist() if r["item_id"] == name]
        assert row["status"] == expected


def test_the_version_goes_up_with_every_change_of_the_record() -> None:
    """If this fails: raise OUTCOME_VERSION, and put the new pair here."""
    digest = storage.sha256(str(OUTCOME_SCHEMA.remove_metadata()).encode())[:12]
    assert (OUTCOME_VERSION, digest) == (10, "bda537076538")
