"""An item that kills its process is found, tried alone twice, and dead-lettered; everything else is refined."""

import os
from pathlib import Path

import pytest

from refine_ops.config import RefineBatchConfig
from refine_ops.job.ledger import read_ledger
from tests.support.node import FAST, make_items, run_node
from tests.support.settle import AddRow, settle

pytestmark = pytest.mark.processes


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "published.log"
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(log))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return log


def test_a_segfault_ends_in_the_dead_letter_after_two_solitary_tries(
    table: AddRow, tmp_path: Path, published: Path
) -> None:
    manifest = make_items(tmp_path / "images", 60, {23: "segfault"})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=FAST)
    verdict = run_node(config, processes=2)
    assert verdict.deaths == 3, "once in company, twice alone"
    promise = "tried alone twice, then dead; its company is refined"
    settle(table, config, published, "segfault", promise, {"item-0023": "worker.killed"})
    rows = read_ledger(str(tmp_path / "run" / "outcomes")).to_pylist()
    attempts = {row["item_id"]: row["attempts"] for row in rows}
    assert attempts.pop("item-0023") == 3
    assert set(attempts.values()) == {1, 2}, "who was in hand when the rank died was tried twice"


def test_a_hung_model_call_is_ended_by_the_watchdog(table: AddRow, tmp_path: Path, published: Path) -> None:
    manifest = make_items(tmp_path / "images", 12, {5: "hang"})
    worker = FAST.model_copy(update={"watchdog_s": 1.5})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=worker)
    run_node(config)
    promise = "the watchdog ends it; tried alone twice, then dead"
    settle(table, config, published, "model call hangs", promise, {"item-0005": "worker.killed"})


def test_an_item_the_model_refuses_is_dead_and_its_batch_is_not(table: AddRow, tmp_path: Path, published: Path) -> None:
    manifest = make_items(tmp_path / "images", 12, {5: "raise"})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=FAST)
    verdict = run_node(config)
    assert (verdict.launches, verdict.deaths) == (1, 0)
    promise = "the item is dead, its batch is not"
    settle(table, config, published, "the model raises", promise, {"item-0005": "model.failed"})
