"""A batch's steps: the same plainly and under Prefect, and what a plain run does without."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect import Task, flow
from prefect.cache_policies import NO_CACHE

from flows import build_dataset, drift_report, refine_eval, train_lora
from flows.prefect_engine import UNDER_PREFECT
from flows.steps.batch import run_batch
from flows.steps.engine import Engine, InProcess
from refine_ops.config import CanaryLimits, RefineBatchConfig, RefineSettings, prefect_is_set_up
from refine_ops.errors import JobError
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder
from tests.support.node import FAST, make_items

BLOCKED = """
import sys
for name in ("torch", "diffusers", "transformers", "prefect"):
    sys.modules[name] = None
from flows.cli.main import app
app(sys.argv[1:])
"""


class Recorded(InProcess):
    """Names of the steps in their order, and what was shown."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.shown: list[str] = []

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.steps.append(function.__name__)
        return function

    def show(self, key: str, markdown: str, description: str | None = None) -> None:
        self.shown.append(key)


def with_a_trivial_model(
    config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
) -> NodeVerdict:
    return Node(folder, config, 1, module="tests.support.trivial_worker").run(todo)


@pytest.mark.processes
def test_what_the_canary_refined_counts_as_refined_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(tmp_path / "published.log"))
    manifest = make_items(tmp_path / "images", 6)
    config = RefineBatchConfig(
        manifest=str(manifest),
        out=str(tmp_path / "run"),
        worker=FAST,
        canary=2,
        canary_limits=CanaryLimits(max_dead=1.0, max_de00=50.0, max_shift_px=50.0),
        lanes="work-pool",
        report_items=0,
        refine=RefineSettings(publish="all"),
    )
    engine = Recorded()
    first = run_batch(config, engine, on_pool=with_a_trivial_model)
    assert (first.done, first.refined_now, first.skipped) == (6, 6, 0)
    assert engine.steps == [
        *("find_folder", "plan_run", "record_problems", "take_approvals", "find_remaining"),
        *("refine_canary", "refine_items"),
        *("write_summary", "publish"),
    ]
    assert engine.shown == ["refine-summary"]
    published = (tmp_path / "published.log").read_text().splitlines()
    assert len(published) == 6, "the canary's items are refined once"
    again = run_batch(config, engine, on_pool=with_a_trivial_model)
    assert (again.done, again.refined_now, again.skipped) == (6, 0, 6)


def test_a_work_pool_needs_prefect(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="needs a Prefect server"):
        run_batch(RefineBatchConfig(manifest="m.jsonl", out=str(tmp_path / "run"), lanes="work-pool"))
    assert not (tmp_path / "run").exists()


@pytest.mark.processes
def test_a_plain_run_imports_neither_torch_nor_prefect_in_its_own_process(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 2)
    out = tmp_path / "run"
    quick = ["--publish", "all"]
    for setting in ("refine.model.steps=1", "refine.focus.focus_pixels=4096", "refine.focus.tiles=none"):
        quick += ["--set", setting]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "OMP_NUM_THREADS": "1"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", BLOCKED, "run", str(manifest), "--out", str(out), *quick]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 done, 0 held, 0 dead" in done.stdout
    assert json.loads((out / "report" / "report.json").read_bytes())["runs"][0]["done"] == 2
    assert not (tmp_path / "prefect").exists()


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ({}, {}, False),
        ({}, {"PREFECT_API_URL": "http://prefect:4200/api"}, True),
        ({}, {"PREFECT_PROFILE": "local"}, True),
        ({".env": "PREFECT_API_URL=http://prefect:4200/api"}, {}, True),
        ({"prefect.toml": "[api]\nurl = 'http://prefect:4200/api'"}, {}, True),
        ({"prefect.toml": "[server]\nmemo_store_path = 'x'"}, {}, False),
        ({"pyproject.toml": "[tool.prefect.api]\nurl = 'http://prefect:4200/api'"}, {}, True),
        ({"pyproject.toml": "[project]\nname = 'x'\n[tool.ruff]\n"}, {}, False),
        ({"home/profiles.toml": "active = 'ephemeral'\n[profiles.ephemeral]\n"}, {}, False),
        ({"home/profiles.toml": "active = 'site'\n[profiles.site]\nPREFECT_API_URL = 'http://p/api'"}, {}, True),
        ({"home/profiles.toml": "active = 'quiet'\n[profiles.quiet]\nPREFECT_LOGGING_LEVEL = 'ERROR'"}, {}, False),
        ({"home/profiles.toml": "[profiles.site]\nPREFECT_API_URL = 'http://p/api'"}, {}, False),
        ({"home/profiles.toml": "this is no TOML"}, {}, False),
    ],
)
def test_prefect_is_used_where_a_server_would_see_the_run(
    files: dict[str, str], environment: dict[str, str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert prefect_is_set_up() is expected


@pytest.mark.processes
def test_a_step_is_run_as_often_as_it_is_called_even_where_a_site_persists_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "true")
    calls = []

    def look(at: int) -> int:
        calls.append(at)
        return len(calls)

    @flow
    def twice() -> list[int]:
        return [UNDER_PREFECT.step(look)(1), UNDER_PREFECT.step(look)(1)]

    with prefect.settings.temporary_settings({prefect.settings.PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}):
        assert twice() == [1, 2]


@pytest.mark.parametrize("module", [build_dataset, drift_report, refine_eval, train_lora])
def test_no_flows_task_is_answered_from_a_cache(module: Any) -> None:
    tasks = [value for value in vars(module).values() if isinstance(value, Task)]
    assert all(task.cache_policy is NO_CACHE or task.cache_policy == NO_CACHE for task in tasks)
