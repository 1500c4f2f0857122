"""What no shipped line may do, and what must never leave the process."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from refine_ops import storage
from refine_ops.config import RefineBatchConfig, RefineSettings, Settings, child_environment
from refine_ops.job.run_folder import fingerprint_parts, open_run
from tests.support import ROOT

SHIPPED = sorted([*(ROOT / "refine_ops").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.hub.load", "yaml.load", "yaml.unsafe_load"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_evaluates_or_asks_a_shell(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & FORBIDDEN_MODULES, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES, f"line {node.lineno}"
        if isinstance(node, ast.Call):
            _check_call(node)


def _check_call(call: ast.Call) -> None:
    name = ast.unparse(call.func)
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    where = f"line {call.lineno}: {name}"
    assert name not in FORBIDDEN_CALLS, where
    assert given.get("trust_remote_code", "False") == "False", where
    assert given.get("allow_pickle", "False") == "False", where
    assert given.get("shell", "False") == "False", where
    if name == "torch.load":
        assert given.get("weights_only") == "True", where


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_errors_that_leave_a_module_have_one_root_and_the_environment_has_one_reader(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "RefineError":
            roots = {ast.unparse(b) for b in node.bases} & {"Exception", "BaseException", "ValueError", "RuntimeError"}
            assert not roots, f"line {node.lineno}: {node.name} is no RefineError"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            assert path.name == "config.py", f"line {node.lineno}: only config.py reads the environment"


def settings_classes() -> list[type[BaseModel]]:
    """All of them: the modules that define any are imported, not the flows, which take 15 s to."""
    for path in SHIPPED:
        if re.search(r"^class \w+\((\w*Settings|\w*Config)\)", path.read_text(), flags=re.M):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found, queue = [], [Settings]
    while queue:
        below = queue.pop().__subclasses__()
        found += below
        queue += below
    return found


def test_no_setting_holds_a_secret_and_none_can_be_misspelt() -> None:
    classes = settings_classes()
    assert {"RefineBatchConfig", "TrainLoraConfig", "BuildDatasetConfig", "RefineEvalConfig"} <= {
        model.__name__ for model in classes
    }
    for model in classes:
        assert model.model_config["frozen"], model
        assert model.model_config["extra"] == "forbid", model
        for name in model.model_fields:
            assert not any(word in name for word in ("secret", "password", "token_", "api_key", "credential")), name


@pytest.mark.processes
def test_secrets_of_the_environment_reach_no_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        name: f"very-secret-{name.lower()}"
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "REFINE_VLM_API_KEY", "PREFECT_API_KEY")
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    from tests.support.node import make_items, run_node

    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(tmp_path / "published.log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    manifest = make_items(tmp_path / "images", 3, {1: "raise"})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), refine=RefineSettings(publish="all"))
    open_run(config.out, fingerprint_parts(config.refine, {}), config.model_dump(mode="json"))
    run_node(config)
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(files) > 4
    for path in files:
        data = path.read_bytes()
        assert not any(value.encode() in data for value in secrets.values()), path
    assert "very-secret" not in json.dumps(json.loads(storage.read(f"{config.out}/run.json")))


def test_workers_have_no_hub_and_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = child_environment()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.processes
def test_workers_import_nothing_from_the_folder_the_user_stands_in(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the folder of the photos was imported')")
    command = [sys.executable, "-m", "json.tool", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_markdown_and_tables_for_prefect_show_hostile_text_as_text() -> None:
    from flows.steps.summary import _code, _plain

    hostile = "<script>x</script> ![a](http://evil/x.png) [b](javascript:x) | c `d` **e** \n# f &lt; \x1b[2J ~~g~~ \\h"
    for text in (_plain(hostile), _code(hostile)):
        bare = text.removeprefix("<code>").removesuffix("</code>")
        assert not set("<>|`[]()*\n\x1b\\~!") & set(bare), "no character that Markdown or HTML would act on"
    assert "&amp;lt;" in _plain("&lt;")
