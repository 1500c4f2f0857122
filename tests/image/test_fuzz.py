"""Damaged files never crash, hang or leak in a worker: each gives a dead letter or a verified output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.processes

MAX_GROWTH_BYTES = 96 << 20
"""What a process may keep after 20,000 files: the cache of 64 colour profiles and the allocator's slack."""


def run(first: int, count: int, journal: Path, timeout_s: float) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.image.fuzz_worker", str(first), str(count), str(journal)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
    )
    assert done.returncode == 0, f"mutation {journal.read_text().strip()}: {done.returncode}\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout)
    results = report["results"]
    assert sum(results.values()) == count
    # A fuzzer that never gets past the first check, or never damages anything, would prove nothing.
    assert count * 0.1 < results["verified"] < count * 0.5
    assert {"image.truncated", "image.unsupported", "image.too_large", "jpeg.refused"} <= set(results)
    assert report["grown_bytes"] < MAX_GROWTH_BYTES
    assert report["slowest_s"] < 10


@pytest.mark.timeout(900)  # 15 s of one core, but the machine may be shared
def test_20000_damaged_files(tmp_path: Path) -> None:
    run(0, 20_000, tmp_path / "journal", 880)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200000_damaged_files(tmp_path: Path) -> None:
    run(1_000_000, 200_000, tmp_path / "journal", 3500)
