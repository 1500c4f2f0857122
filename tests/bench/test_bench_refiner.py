"""The refiner's bench runs, agrees with diffusers' own loop, and is faster than it.

The comparison is slow; last run: 2026-11-25, fe69c38, two shared cores: passed in 20 s.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

BENCH = Path(__file__).with_name("bench_refiner.py")


def run_bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH), "--json", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


@pytest.mark.slow  # agreement is tests/model/test_parity.py's, at every change
def test_bundled_model_beats_diffusers_loop_and_agrees_with_it(tmp_path: Path) -> None:
    figures = run_bench(tmp_path, "--parts", "compare", "--repeats", "2")["compare"]
    assert figures["max_diff"] < 1e-5
    assert figures["ratio"] >= 1.5


def test_all_parts_run_on_random_weights(tmp_path: Path) -> None:
    figures = run_bench(tmp_path, "--random", "--repeats", "1", "--steps", "2", "--items", "2", "--batch-size", "2")
    assert {row["mode"] for row in figures["steps"]} >= {"stock", "fast", "sparse"}
    assert all(row["s_per_step"] > 0 and row["floor_s"] > 0 for row in figures["steps"])
    assert figures["worker"]["s_per_item"] > 0
