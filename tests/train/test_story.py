"""The training chapter's retraining story, typed as it stands: build-dataset, train, promote, run.

Its settings and commands are read from it and run in a fresh folder, one process each. Last full run:
2026-11-23, 6fb80d8, `pytest -m slow tests/train/test_story.py`: 3 passed in 491 s, one thread.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from refine_ops import adapters
from refine_ops.train.metrics_log import read_metrics
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
README = ROOT / "refine_ops" / "train" / "README.md"


def _block(name: str) -> str:
    """The fenced block behind the marker `<!-- story: NAME -->`."""
    found = re.search(rf"<!-- story: {re.escape(name)} -->\n```\w*\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, f"{README} has no block {name!r}"
    return found[1]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder afterwards, and what each command printed."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "train.yaml").write_text(_block("train.yaml"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = {}
    for line in _block("commands").splitlines():
        command = line.partition("  #")[0].strip()
        done = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed[command] = done.stdout
    return folder, printed


def _current(folder: Path) -> adapters.AdapterCard:
    return adapters.show(str(folder / "adapters"), "current")


def test_the_first_adapter_beats_the_base_and_is_promoted(story: tuple[Path, dict[str, str]]) -> None:
    folder, printed = story
    assert "promote: the new adapter becomes current" in printed["refine-ops train train.yaml"]
    assert len(adapters.history(str(folder / "adapters"))) == 1
    rows = [row for row in read_metrics(folder / "first" / "metrics.jsonl") if "validation_loss" in row]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]


def test_bad_adapters_are_refused(story: tuple[Path, dict[str, str]]) -> None:
    folder, printed = story
    verdicts = [text for command, text in printed.items() if command.startswith("refine-ops train train.yaml --out")]
    assert len(verdicts) == 2
    assert all("the incumbent stays" in text for text in verdicts)
    assert len(adapters.versions(str(folder / "adapters"))) == 3
    assert _current(folder).settings == json.loads((folder / "first" / "train.json").read_text())["settings"]


def test_the_nightly_run_uses_it(story: tuple[Path, dict[str, str]]) -> None:
    folder, printed = story
    (last,) = (text for command, text in printed.items() if command.startswith("refine-ops run"))
    done, held = (int(number) for number in re.search(r"(\d+) done, (\d+) held, 0 dead, 0 px", last).groups())
    assert done + held == 4
    assert _current(folder).sha256 in (folder / "night" / "run.json").read_text()
