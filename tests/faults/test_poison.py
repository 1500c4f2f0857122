"""An item that kills its process is found, tried alone twice, and dead-lettered; everything else is refined."""

import os
from pathlib import Path

import pytest

from refine_ops.config import ModelSettings, RefineBatchConfig, RefineSettings
from refine_ops.job.ledger import read_ledger

from .node import FAST, make_items, outputs_of, run_node


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(tmp_path / "published.log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def statuses(out: Path) -> dict[str, str]:
    ledger = read_ledger(str(out / "outcomes"))
    return dict(zip(ledger["item_id"].to_pylist(), ledger["reason"].to_pylist(), strict=True))


def test_a_segfault_ends_in_the_dead_letter_after_two_solitary_tries(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 60, {23: "segfault"})
    out = tmp_path / "run"
    verdict = run_node(RefineBatchConfig(manifest=str(manifest), out=str(out), worker=FAST), processes=2)
    found = statuses(out)
    assert found.pop("item-0023") == "worker.killed"
    assert set(found.values()) == {""}
    assert len(outputs_of(out)) == 59
    assert verdict.deaths == 3, "once in company, twice alone"


def test_a_hung_model_call_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 12, {5: "hang"})
    out = tmp_path / "run"
    refine = RefineSettings(model=ModelSettings(watchdog_s=1.5))
    run_node(RefineBatchConfig(manifest=str(manifest), out=str(out), worker=FAST, refine=refine))
    found = statuses(out)
    assert found.pop("item-0005") == "worker.killed"
    assert set(found.values()) == {""}


def test_an_item_the_model_refuses_is_dead_and_its_batch_is_not(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 12, {5: "raise"})
    out = tmp_path / "run"
    verdict = run_node(RefineBatchConfig(manifest=str(manifest), out=str(out), worker=FAST))
    found = statuses(out)
    assert found.pop("item-0005") == "model.failed"
    assert set(found.values()) == {""}
    assert (verdict.launches, verdict.deaths) == (1, 0)
