"""A run of every class of editor, killed in its middle and started again, publishes the bytes of a quiet run.

Last runs, 27 November 2026, `pytest -n 0 -m slow tests/faults/test_kill_editor.py` in three parts on two busy cores,
all nine classes passed: the plain and inpainting klein and kontext and QwenImageEdit at 049f504 (197, 183, 207, 164 and
340 s), klein KV and QwenImage 2.1 at 777a2ec (385 s), QwenImageEdit's inpainting and LongCat at 26d870b (823 s).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.model.editor.conftest import OWN_AREA, png
from tests.support import ROOT
from tests.support.editors import BUILDERS

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]


def start(manifest: Path, out: Path, kind: str, model: Path) -> subprocess.Popen[bytes]:
    options: dict[str, object] = {"model.model": model, "model.steps": 2, "publish": "all"}
    if kind not in OWN_AREA:  # those know but 1 MP
        options["focus.focus_pixels"] = 96 * 96
    chosen = [part for name, value in options.items() for part in ("--set", f"refine.{name}={value}")]
    command = [sys.executable, "-m", "flows.cli.main", "run", str(manifest), "--out", str(out), *chosen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment, cwd=ROOT
    )


def published(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("outputs/**/*.png") if not path.name.startswith(".tmp-")}


@pytest.mark.parametrize("kind", BUILDERS)
def test_kill_and_resume_give_the_bytes_of_a_quiet_run(kind: str, tmp_path: Path) -> None:
    model = BUILDERS[kind](tmp_path / "model")
    count = 4 if kind in OWN_AREA else 24
    manifest = tmp_path / "items.jsonl"
    rows = []
    for i in range(count):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        region = {"region_id": "r", "prompt": "refine the logo.", "box": [60, 50, 110, 90]}
        rows.append(json.dumps({"item_id": f"item-{i}", "image": f"{i}.png", "regions": [region]}))
    manifest.write_text("\n".join(rows))
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    process = start(manifest, killed, kind, model)
    while not published(killed) and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read().decode()[-2000:] if process.stdout else ""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(published(killed)) < count
    for out in (killed, quiet):
        last = start(manifest, out, kind, model)
        said = last.communicate(timeout=800)[0].decode()
        assert last.returncode == 0, said[-3000:]
    assert len(published(quiet)) == count
    assert published(killed) == published(quiet)
