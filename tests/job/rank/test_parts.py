"""What a rank is made of, each by itself: batches by bucket, a bound on bytes, an item's state, files of a launch."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from refine_ops.config import AccessSettings, RefineSettings, WorkerSettings
from refine_ops.job.child import Child
from refine_ops.job.elastic import run_elastic
from refine_ops.job.outcome import Attempt
from refine_ops.job.rank.buckets import Buckets
from refine_ops.job.rank.byte_budget import ByteBudget
from refine_ops.job.rank.in_flight import Flight
from refine_ops.job.rank.shared_counter import SoleCounter
from refine_ops.job.scratch import Assignment, Counts, Journal, Scratch, Spec, assignments_of
from refine_ops.records import Item, Patch, Region


@dataclass(frozen=True)
class Bucketed:
    bucket: Hashable


def flight(position: int, bucket: Hashable = "a", waiting_since: float = 0.0) -> Flight:
    item = Item(str(position), "/a.png", "a.png", (Region("logo", ""), Region("seal", "")), position)
    made = Flight(position, Attempt(item, "request", "run"), prepared=Bucketed(bucket))
    made.waiting_since = waiting_since or float(position)
    return made


def positions(batch: list[Flight]) -> list[int]:
    return [f.position for f in batch]


# -- buckets


def test_a_full_bucket_is_taken_in_the_order_of_arrival_and_its_rest_waits_on() -> None:
    buckets = Buckets(lambda size: 2)
    for i in range(3):
        buckets.add(flight(i))
    assert positions(buckets.pop_full()) == [0, 1]
    assert buckets.pop_full() == []
    assert positions(buckets.pop_oldest()) == [2]
    assert buckets.pop_oldest() == []


def test_only_flights_of_one_bucket_share_a_batch_and_who_waited_longest_goes_first() -> None:
    buckets = Buckets(lambda size: 2)
    for i, bucket in enumerate(["wide", "tall", "wide", "tall"]):
        buckets.add(flight(i, bucket, waiting_since=10.0 - i))
    assert positions(buckets.pop_full()) == [1, 3], (
        "the tall ones' first has waited since 9.0, the wide ones' since 10.0"
    )
    assert positions(buckets.pop_full()) == [0, 2]


def test_a_batch_size_that_shrinks_in_mid_run_holds_for_those_who_wait_already() -> None:
    size = 4
    buckets = Buckets(lambda _: size)
    for i in range(3):
        buckets.add(flight(i))
    assert buckets.pop_full() == []
    size = 2
    assert positions(buckets.pop_full()) == [0, 1]


# -- the byte budget


def blocked(thread: threading.Thread) -> bool:
    thread.join(0.2)
    return thread.is_alive()


def test_who_would_exceed_the_budget_waits_for_a_release() -> None:
    budget = ByteBudget(100)
    budget.acquire(60)
    thread = threading.Thread(target=budget.acquire, args=(50,), daemon=True)
    thread.start()
    assert blocked(thread)
    budget.release(60)
    assert not blocked(thread)


def test_one_item_larger_than_the_budget_is_let_through_alone() -> None:
    budget = ByteBudget(100)
    budget.acquire(1000)
    thread = threading.Thread(target=budget.acquire, args=(1,), daemon=True)
    thread.start()
    assert blocked(thread)
    budget.release(1000)
    assert not blocked(thread)


# -- one item in flight


def test_landing_lets_go_of_patches_and_memory() -> None:
    made = flight(7)
    made.held_bytes = 123
    made.patches["logo"] = Patch(np.zeros((2, 2, 3), np.float32), np.ones((2, 2), bool), 1)
    assert made.land() == 123
    assert (made.patches, made.prepared, made.refinement, made.land()) == ({}, None, None, 0)


def test_an_attempts_times_add_up_by_step() -> None:
    attempt = flight(0).attempt
    for _ in range(2):
        with attempt.timed("focus"):
            time.sleep(0.01)
    with pytest.raises(ValueError, match="decode"), attempt.timed("decode"):
        raise ValueError("decode")
    attempt.add_time("refine", 1.5)
    assert 0.02 <= attempt.timings_s["focus"] < 1.0
    assert attempt.timings_s["refine"] == 1.5
    assert "decode" in attempt.timings_s, "a step that failed took its time too"


# -- the counter


def test_a_sole_ranks_threads_take_every_index_once() -> None:
    counter, taken = SoleCounter(), []

    def take() -> None:
        while (index := counter.take(1000)) is not None:
            taken.append(index)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1000))
    assert counter.device("cpu").type == "cpu"


SHARED = """
import sys
from pathlib import Path
from refine_ops.job.rank.shared_counter import SharedCounter
counter = SharedCounter()
taken = []
while (index := counter.take(200)) is not None:
    taken.append(index)
(Path(sys.argv[1]) / f"{counter.rank}").write_text(" ".join(map(str, taken)))
counter.close()
"""


@pytest.mark.processes
def test_ranks_that_share_a_counter_take_every_index_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting_rank.py").write_text(SHARED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    log = tmp_path / "ranks.log"
    assert run_elastic("counting_rank", [str(tmp_path)], processes=2, log=log) == 0, log.read_text()
    taken = [(tmp_path / name).read_text().split() for name in "01"]
    assert sorted(int(i) for part in taken for i in part) == list(range(200))


# -- launcher and ranks


def test_what_is_assigned_arrives_as_it_was(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    spec = Spec(
        run="s3://lake/run",
        start=3,
        fingerprint="f",
        refine=RefineSettings(),
        worker=WorkerSettings(flush_s=1.5),
        access=AccessSettings(buckets=("lake",)),
        keep_patches="flagged",
        solo=True,
        writer="w",
    )
    given = [Assignment(7, earlier_attempts=2), Assignment(3)]
    assert not scratch.has_assignments
    scratch.assign(spec, assignments_of(given))
    assert scratch.has_assignments
    found, assigned = Scratch(tmp_path / "scratch").assigned()
    assert found == spec
    assert [Assignment(*row.item()) for row in assigned] == given


def test_the_journals_name_what_was_taken_and_never_let_go_even_by_a_line_cut_short(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    first, second = Journal(scratch, 0), Journal(scratch, 1)
    for position in (4, 5, 12):
        first.take(position)
    second.take(6)
    first.let_go(5)
    second.let_go(6)
    with (tmp_path / "journal-1").open("a") as f:
        f.write("+")  # the kernel took half a line
    assert scratch.in_flight() == [4, 12]


def test_counts_of_ranks_add_up_and_times_are_the_slowest_ranks(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    assert scratch.counts() == Counts()
    scratch.write_counts(0, Counts(done=3, dead=1, held=2, regions=5, model_s=2.0, load_s=4.0, first_image_s=5.0))
    scratch.write_counts(1, Counts(done=2, held=1, regions=2, model_s=1.0, load_s=6.0, first_image_s=1.0))
    assert scratch.counts() == Counts(5, 1, 3, 7, 3.0, 6.0, 5.0)
    assert scratch.counts().detail == "3 held, 1 dead"


def test_the_logs_end_is_the_ranks_own_words(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    assert scratch.log_tail() == ""
    scratch.log.write_text("x" * 5000 + "CUDA error\nE torch/distributed/elastic/multiprocessing/api.py:874] failed")
    assert scratch.log_tail(20).endswith("CUDA error\nE ")


# -- children


@pytest.mark.processes
def test_a_child_ends_with_everything_below_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
    )
    child = Child([sys.executable, "-c", script], tmp_path / "log")
    while not (tmp_path / "log").read_text().strip():
        time.sleep(0.02)
    below = int((tmp_path / "log").read_text())
    child.kill()
    child.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{below}").exists() and "Z" not in Path(f"/proc/{below}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "an orphan"
        time.sleep(0.05)


@pytest.mark.processes
def test_a_child_whose_parent_is_dead_before_it_could_ask_ends_at_once() -> None:
    code = "from refine_ops.job.child import die_with_parent; die_with_parent(1); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
