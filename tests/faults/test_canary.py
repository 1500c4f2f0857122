"""The canary, `limit` and `retry_dead`, with the real launcher and worker."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from refine_ops.config import AlignSettings, CanaryLimits, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError, Unacceptable
from refine_ops.job.launch import Node
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.canary import check_canary, sample_canary
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.planning.remaining import Remaining, remaining
from refine_ops.job.run_folder import RunFolder, fingerprint_parts, open_run
from tests.support.node import FAST, make_items, outputs_of, run_node

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(tmp_path / "published.log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def categorise(manifest: Path, categories: dict[str, int]) -> None:
    """Rewrite the manifest's categories: so many rows of each, in order."""
    names = [name for name, count in categories.items() for _ in range(count)]
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row, name in zip(rows, names, strict=True):
        row["category"] = name
    manifest.write_text("\n".join(map(json.dumps, rows)))


def planned(config: RefineBatchConfig) -> tuple[RunFolder, PlanReader, Remaining]:
    folder = open_run(config.out, fingerprint_parts(config.refine, {}), {})
    make_plan(config.manifest, folder.uri, access=config.access)
    plan = PlanReader(folder.plan)
    ledger = read_known(folder.outcomes, PlanReader(folder.plan))
    return folder, plan, remaining(plan, ledger, recheck=True, retry_dead=False)


def test_a_rare_category_is_in_the_sample_and_the_sample_is_the_same_every_time(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 60)
    categorise(manifest, {"shoes": 50, "watches": 8, "rings": 2})
    _, plan, todo = planned(RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run")))
    sample = sample_canary(plan, todo, 12)
    counts = Counter(plan.item(int(p))[0].category for p in sample.positions)
    assert counts["rings"] == 2
    assert counts["watches"] >= 4
    assert sum(counts.values()) == 12
    assert np.array_equal(sample_canary(plan, todo, 12).positions, sample.positions)


def test_a_bad_canary_stops_the_run_before_the_rest(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 24, dict.fromkeys(range(0, 24, 2), "raise"))
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=FAST)
    folder, plan, todo = planned(config)
    sample = sample_canary(plan, todo, 8)
    Node(folder, config, 1, module="tests.support.trivial_worker").run(sample)
    with pytest.raises(JobError, match=r"canary failed, nothing else was run: 8 items, .* dead .*model\.failed"):
        check_canary(folder, plan, sample, CanaryLimits())
    assert read_ledger(folder.outcomes, []).num_rows == 8
    tolerant = CanaryLimits(max_dead=1.0, max_de00=50.0)
    assert "8 items" in check_canary(folder, plan, sample, tolerant)
    with pytest.raises(JobError, match=r"canary failed, nothing else was run: .* look at: .*doctor"):
        check_canary(folder, plan, sample, tolerant.model_copy(update={"max_de00": 1.0}))


def test_a_canary_of_which_nothing_was_measured_proves_nothing(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 8)
    blind = RefineSettings(publish="all", align=AlignSettings(min_known_px=10**9))
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=FAST, refine=blind)
    folder, plan, todo = planned(config)
    sample = sample_canary(plan, todo, 4)
    Node(folder, config, 1, module="tests.support.trivial_worker").run(sample)
    with pytest.raises(Unacceptable, match=r"nothing else was run: of 4 items no region's drift could be measured"):
        check_canary(folder, plan, sample, CanaryLimits())
    assert "drift of 0 measured regions" in check_canary(folder, plan, sample, CanaryLimits(allow_unmeasured=True))


def test_limit_then_the_rest_then_the_dead_again(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 16, {3: "raise"})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=FAST, limit=6)
    assert run_node(config).counts.done == 5
    assert len(outputs_of(tmp_path / "run")) == 5
    rest = run_node(config.model_copy(update={"limit": None}))
    assert (rest.counts.done, rest.counts.dead) == (10, 0), "what is done or dead is not touched"
    mended = manifest.read_text().replace('"prompt": "raise"', '"prompt": "Refine it"')
    manifest.write_text(mended)
    again = run_node(config.model_copy(update={"limit": None}))
    assert again.counts.done == 1, "a row that changed is redone without being asked for"
    ledger = read_ledger(str(tmp_path / "run" / "outcomes"))
    assert ledger["status"].to_pylist() == ["done"] * 16
