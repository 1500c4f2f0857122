"""From the demo's folder of photos alone, two commands as the front page shows them: detect, and refine by the gate.

Slow. Last run: 28 November 2026, on the change that leaves a reference's edge out of the region, `pytest -n 0 -m slow
tests/detect/test_two_commands.py`: 2 passed in 70 s. Before it nothing was let through: no reference fitted a region of
which it showed the inside alone.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from refine_ops.data.demo.material import make_demo
from refine_ops.job.ledger import read_ledger

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def typed(command: str, folder: Path) -> str:
    line = [sys.executable, "-m", "flows.cli.main", *command.split()]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_two_commands_find_the_damaged_details_and_refine_them(tmp_path: Path) -> None:
    (tmp_path / "refine-demo").mkdir()
    make_demo(tmp_path / "refine-demo")
    typed("detect refine-demo/images --like refine-demo/references --only damaged --out found", tmp_path)
    rows = pq.read_table(tmp_path / "found/manifest.parquet").to_pylist()
    named = {Path(region["reference"]).stem for row in rows for region in row["regions"]}
    assert named == {"astronaut-badge", "astronaut-patch", "chelsea-eye", "rocket-rocket"}, "all that have a reference"
    assert "0 px changed outside the allowed change" in typed("run found/manifest.parquet --out night", tmp_path)
    outcomes = read_ledger(str(tmp_path / "night/outcomes"), ["item_id", "status"]).to_pylist()
    assert {row["status"] for row in outcomes} <= {"done", "held"}
    assert any(row["status"] == "done" for row in outcomes), "the gate lets something through"


@pytest.mark.timeout(300)
def test_of_the_undamaged_photos_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "refine-demo").mkdir()
    make_demo(tmp_path / "refine-demo")
    said = typed("detect refine-demo/clean --like refine-demo/references --only damaged --out found", tmp_path)
    assert said.startswith("0 regions in 0 of 4 images")
