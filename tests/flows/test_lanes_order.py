"""Dealing shards, and the work order that lanes and parent share."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.fleet import deal
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job.ledger import outcomes_table, write_part
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.order import OrderProgress, read_order, share_of, write_order
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.run_folder import RunFolder, fingerprint_parts, open_run
from refine_ops.records import Outcome
from tests.support.node import make_items


@given(st.dictionaries(st.integers(0, 500), st.integers(1, 1024), min_size=1), st.integers(1, 64))
def test_every_shard_is_dealt_once_and_hands_are_level(work: dict[int, int], lanes: int) -> None:
    hands = deal(work, lanes)
    assert sorted(s for hand in hands for s in hand) == sorted(work)
    assert all(hands)
    assert len(hands) == min(lanes, len(work))
    loads = [sum(work[s] for s in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(work.values()), "moving any one shard would not level them further"


def plan_of(tmp_path: Path, count: int = 10, shard_items: int = 3) -> tuple[RefineBatchConfig, RunFolder]:
    manifest = make_items(tmp_path / "images", count)
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), shard_items=shard_items)
    folder = open_run(config.out, fingerprint_parts(config.refine, {}), {})
    make_plan(config.manifest, folder.uri, access=config.access, shard_items=shard_items)
    return config, folder


def record(folder: RunFolder, items: list[int], status: str = "done", at: float | None = None) -> None:
    """Outcomes as a worker leaves them."""
    rows = [
        Outcome(f"item-{i:04}", "f", status, request="r", finished_at=time.time() if at is None else at)  # type: ignore[arg-type]
        for i in items
    ]
    write_part(folder.outcomes, outcomes_table(rows), "test")


def todo_of(folder: RunFolder, **flags: bool):

    ledger = read_known(folder.outcomes, PlanReader(folder.plan))
    return remaining(PlanReader(folder.plan), ledger, recheck=False, retry_dead=flags.get("retry_dead", False))


def test_a_lane_finds_its_share_and_the_parent_sees_what_is_left(tmp_path: Path) -> None:
    config, folder = plan_of(tmp_path)
    written = write_order(config, folder, todo_of(folder))
    record(folder, [0, 4], at=1.0)  # a worker whose clock is half a century slow
    order = read_order(written.uri, folder)
    assert order.config == config
    assert share_of(order, {0, 1}).positions.tolist() == [0, 1, 2, 3, 4, 5]
    progress = OrderProgress(order, folder)
    progress.refresh()
    assert progress.unfinished() == {0: 2, 1: 2, 2: 3, 3: 1}
    record(folder, [9], "dead")
    assert progress.refresh() == 1
    assert progress.unfinished() == {0: 2, 1: 2, 2: 3}
    assert progress.dead.sum() == 1
    rest = read_order(progress.narrowed({0, 2}, folder).uri, folder)
    assert share_of(rest, {0, 1, 2}).positions.tolist() == [1, 2, 6, 7, 8], "a second lane does only what is left"


def test_dead_letters_tried_again_count_only_by_their_new_outcome(tmp_path: Path) -> None:
    config, folder = plan_of(tmp_path, 4)
    plan = PlanReader(folder.plan)
    requests = {plan.item(i)[0].item_id: plan.item(i)[1] for i in range(4)}
    rows = [Outcome(k, "f", "dead", request=r, finished_at=5.0) for k, r in requests.items()]
    write_part(folder.outcomes, outcomes_table(rows), "test")
    assert len(todo_of(folder).positions) == 0
    order = write_order(config, folder, todo_of(folder, retry_dead=True))
    progress = OrderProgress(order, folder)
    progress.refresh()
    assert progress.unfinished() == {0: 3, 1: 1}, "the old deaths do not count"
    record(folder, [2], "dead")
    progress.refresh()
    assert progress.unfinished() == {0: 2, 1: 1}, "the new one does, also a new death"


def test_an_order_for_another_plan_is_refused(tmp_path: Path) -> None:
    config, folder = plan_of(tmp_path)
    order = write_order(config, folder, todo_of(folder))
    manifest = make_items(tmp_path / "images", 11)
    make_plan(str(manifest), folder.uri, access=config.access, shard_items=3)
    with pytest.raises(JobError, match="another plan"):
        read_order(order.uri, folder)


def test_an_order_outside_the_run_folder_or_damaged_is_refused(tmp_path: Path) -> None:
    config, folder = plan_of(tmp_path)
    order = write_order(config, folder, todo_of(folder))
    elsewhere = tmp_path / "order.parquet"
    elsewhere.write_bytes(Path(order.uri).read_bytes())
    with pytest.raises(JobError, match="does not belong"):
        read_order(str(elsewhere), folder)
    Path(order.uri).write_bytes(Path(order.uri).read_bytes()[:-100])
    with pytest.raises(JobError, match="cannot be read"):
        read_order(order.uri, folder)


def test_equal_orders_share_a_name(tmp_path: Path) -> None:
    config, folder = plan_of(tmp_path)
    first = write_order(config, folder, todo_of(folder))
    assert write_order(config, folder, todo_of(folder)).uri == first.uri
    assert np.array_equal(first.shards(), read_order(first.uri, folder).shards())
