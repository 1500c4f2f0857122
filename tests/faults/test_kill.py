"""Kill anything at any time and lose nothing: real processes, real SIGKILL.

Last slow run, 20 kills of a run of 240 items: 2026-11-25, `pytest -m slow tests/faults/test_kill.py`, two cores shared
with other work: passed in 200 s.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.job.ledger import read_ledger
from tests.support.node import make_items, outputs_of
from tests.support.servers.site import end, tree
from tests.support.settle import AddRow, settle

pytestmark = pytest.mark.processes

EXACT_KILLS = ("after-output:1", "mid-part:1", "after-output:5", "mid-part:2")
MORE_KILLS = (*EXACT_KILLS, "after-output:9", "mid-part:3", "after-output:2", "mid-part:1")


def start(manifest: Path, out: Path, processes: int, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.node", str(manifest), str(out), str(processes)]
    env = {
        **os.environ,
        "REFINE_TEST_PUBLISHED": str(out.parent / "published.log"),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(out: Path) -> int:
    return len({path.name for path in out.glob("outputs/**/*.png") if not path.name.startswith(".tmp-")})


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "random_kills", "exact_kills"),
    [(120, 2, EXACT_KILLS[:2]), pytest.param(240, 12, MORE_KILLS, marks=pytest.mark.slow)],
    ids=["4", "20"],
)
def test_a_run_killed_at_many_moments_ends_as_if_nothing_had_happened(
    table: AddRow, tmp_path: Path, count: int, random_kills: int, exact_kills: tuple[str, ...]
) -> None:
    """At moments that chance chose, and exactly between an output and its outcome, or in the middle of a part."""
    manifest = make_items(tmp_path / "images", count)
    out = tmp_path / "run"
    rng = np.random.default_rng(7)
    targets = np.sort(rng.choice(np.arange(1, count - 60), random_kills, replace=False))
    for i, target in enumerate(targets):
        process = start(manifest, out, 1 + i % 2, REFINE_TEST_SLEEP_S="0.02")
        while finished(out) < target and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        end(process)
    for i, fault in enumerate(exact_kills):
        process = start(manifest, out, 2 - i % 2, REFINE_TEST_SLEEP_S="0.005", REFINE_TEST_FAULT=fault)
        assert process.wait(timeout=120) == -signal.SIGKILL, "the planted kill did not happen"

    last = start(manifest, out, 1)
    assert last.wait(timeout=120) == 0, last.stderr.read().decode()[-2000:]
    config = RefineBatchConfig(manifest=str(manifest), out=str(out))
    fault = f"SIGKILL at {random_kills + len(exact_kills)} moments"
    settle(table, config, tmp_path / "published.log", fault, "each start goes on where it was", {})
    assert len(outputs_of(out)) == count


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "faults",
    [
        ("after-output:4", "mid-part:1"),
        pytest.param(("after-output:1", "mid-part:1", "after-output:4", "mid-part:2"), marks=pytest.mark.slow),
    ],
    ids=["2", "4"],
)
def test_a_judged_run_killed_at_many_moments_holds_what_a_quiet_one_holds(
    tmp_path: Path, faults: tuple[str, ...]
) -> None:
    """Between a candidate and its outcome, between an output and its outcome, in the middle of a part.

    Last run of the slow one: 2026-11-27, af4f642, beside other work: passed in 39 s.
    """
    count = 24
    prompts = {i: "soft" if i % 3 else "nan" for i in range(0, count, 2)}
    manifest = make_items(tmp_path / "images", count, prompts)
    out, quiet = tmp_path / "run", tmp_path / "quiet" / "run"
    quiet.parent.mkdir()
    for i, fault in enumerate(faults):
        process = start(manifest, out, 1 + i % 2, REFINE_TEST_FAULT=fault, REFINE_TEST_JUDGED="1")
        assert process.wait(timeout=120) == -signal.SIGKILL, "the planted kill did not happen"
    for folder in (out, quiet):
        last = start(manifest, folder, 1, REFINE_TEST_JUDGED="1")
        assert last.wait(timeout=120) == 0, last.stderr.read().decode()[-2000:]
    columns = ["item_id", "status", "reason", "output", "output_sha256", "candidate_sha256", "fingerprint"]
    found, expected = (
        read_ledger(str(f / "outcomes"), columns[1:]).select(columns).sort_by("item_id") for f in (out, quiet)
    )
    assert found.to_pylist() == expected.to_pylist()
    rows = read_ledger(str(out / "outcomes")).to_pylist()
    assert {row["status"] for row in rows if prompts.get(int(row["item_id"][-4:]))} == {"held"}
    for row in rows:
        for at, digest in ((row["object"], row["output_sha256"]), (row["candidate"], row["candidate_sha256"])):
            assert not at or storage.sha256((out / at).read_bytes()) == digest
    versions: dict[str, set[str]] = {}
    for line in (tmp_path / "published.log").read_text().splitlines():
        uri, digest = line.split()
        versions.setdefault(uri, set()).add(digest)
    assert all(len(digests) == 1 for digests in versions.values()), "nothing is written over"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_is_clean_and_quick(tmp_path: Path, processes: int) -> None:
    manifest = make_items(tmp_path / "images", 200)
    out = tmp_path / "run"
    process = start(manifest, out, processes, REFINE_TEST_SLEEP_S="0.05")
    while finished(out) < 5:
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        time.sleep(0.02)
    below = tree(process.pid)[1:]
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=40)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert time.monotonic() - asked < 30
    assert read_ledger(str(out / "outcomes")).num_rows == finished(out), "an output without its outcome"
