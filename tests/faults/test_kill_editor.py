"""An editor's run, killed in its middle and started again, publishes the bytes of a run that nobody touched.

Last run: 892b34f, 2026-11-27, `pytest -m slow tests/faults/test_kill_editor.py`, two shared cores: 1 passed in 255 s.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.model.editor.conftest import png
from tests.support import ROOT
from tests.support.editors import klein

COUNT = 8

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]


def start(manifest: Path, out: Path, model: Path) -> subprocess.Popen[bytes]:
    options = {"model.model": model, "model.steps": 2, "publish": "all", "focus.focus_pixels": 96 * 96}
    chosen = [part for name, value in options.items() for part in ("--set", f"refine.{name}={value}")]
    command = [sys.executable, "-m", "flows.cli.main", "run", str(manifest), "--out", str(out), *chosen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment, cwd=ROOT
    )


def published(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("outputs/**/*.png") if not path.name.startswith(".tmp-")}


def test_kill_and_resume_give_the_bytes_of_a_quiet_run(tmp_path: Path) -> None:
    model = klein(tmp_path / "klein")
    manifest = tmp_path / "items.jsonl"
    rows = []
    for i in range(COUNT):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        region = {"region_id": "r", "prompt": "refine the logo.", "box": [60, 50, 110, 90]}
        rows.append(json.dumps({"item_id": f"item-{i}", "image": f"{i}.png", "regions": [region]}))
    manifest.write_text("\n".join(rows))
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    process = start(manifest, killed, model)
    while len(published(killed)) < 2 and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read().decode()[-2000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(published(killed))
    assert 2 <= before < COUNT
    for out in (killed, quiet):
        last = start(manifest, out, model)
        said = last.communicate(timeout=400)[0].decode()
        assert last.returncode == 0, said[-3000:]
    assert "no gate was calibrated" not in said, "everything is published: nobody judges"
    assert len(published(quiet)) == COUNT
    assert published(killed) == published(quiet)
