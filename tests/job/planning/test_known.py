"""What a start takes from the ledger, against the ledger read whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_ops import storage
from refine_ops.job import ledger
from refine_ops.job.ledger import compact, outcomes_table, read_ledger, write_part
from refine_ops.job.planning.known import UNKNOWN, hashes_of, read_known
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.starts import void_start
from refine_ops.records import Outcome

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
OUTCOMES = st.builds(
    Outcome,
    item_id=st.sampled_from("abcdef"),
    fingerprint=st.just(""),
    status=st.sampled_from(["done", "held", "dead"]),
    request=HEX | st.sampled_from(["", "asked for something else"]),
    identity=HEX,
    start=st.integers(1, 4),
    finished_at=st.integers(0, 5).map(float),
    run_fingerprint=st.sampled_from(["", "first", "second"]),
)


def a_plan(folder: Path, ids: list[str]) -> PlanReader:
    pq.write_table(pa.table({"item_id": ids, "request": ids}), folder / "plan.parquet")
    return PlanReader(str(folder / "plan.parquet"))


@given(parts=st.lists(st.lists(OUTCOMES, min_size=1, max_size=6), max_size=4), void=st.frozensets(st.integers(1, 4)))
def test_of_every_row_it_knows_the_latest_outcome_that_counts(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Outcome]], void: frozenset[int]
) -> None:
    run = tmp_path_factory.mktemp("known")
    for number, part in enumerate(parts):
        # A tie in everything that decides would leave the choice open.
        told = [replace(o, finished_at=o.finished_at + number / 8 + i / 64) for i, o in enumerate(part)]
        write_part(str(run / "outcomes"), outcomes_table(told), f"w{number}")
    for start in void:
        void_start(str(run), start)
    plan = a_plan(run, list("fedbaz"))
    known = read_known(str(run / "outcomes"), plan)
    rows = {row["item_id"]: row for row in read_ledger(str(run / "outcomes")).to_pylist()}
    for position, item in enumerate("fedbaz"):
        if item not in rows:
            assert known.status[position] == UNKNOWN
            continue
        row = rows[item]
        assert known.statuses[known.status[position]] == row["status"]
        assert known.runs[known.run[position]] == row["run_fingerprint"]
        assert known.request[position] == hashes_of(pa.array([row["request"]]))[0]
        assert known.identity[position] == hashes_of(pa.array([row["identity"]]))[0]


@given(st.lists(HEX | st.text(max_size=40) | st.none(), max_size=20), st.integers(0, 3))
def test_equal_texts_have_equal_hashes_and_others_do_not(texts: list[str | None], cut: int) -> None:
    array = pa.array(texts, pa.string()).slice(min(cut, len(texts)))
    told = [text or "" for text in array.to_pylist()]
    hashes = [bytes(found) for found in hashes_of(array)]
    assert [[a == b for b in told] for a in told] == [[a == b for b in hashes] for a in hashes]


def test_a_large_start_is_merged_into_parts_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MERGED_ROWS", 40)
    monkeypatch.setattr(ledger, "_READ_TOGETHER", 3)
    folder = str(tmp_path / "outcomes")
    for part in range(30):
        told = [Outcome(f"{part}-{i}", "", "done", start=1, finished_at=1.0) for i in range(7)]
        write_part(folder, outcomes_table(told), f"w{part}")
    compact(folder)
    sizes = [pq.read_metadata(uri).num_rows for uri in storage.list_files(folder)]
    assert sum(sizes) == 210
    assert len(sizes) == 5
    assert max(sizes) < 2 * 40
    before = set(storage.list_files(folder))
    compact(folder)
    assert set(storage.list_files(folder)) == before, "what is merged is left alone"
    assert read_ledger(folder, []).num_rows == 210
    assert read_ledger(folder, [], start=2).num_rows == 0
    assert np.all(read_known(folder, a_plan(tmp_path, ["3-3", "29-6"])).status == 0)
