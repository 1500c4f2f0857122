"""A cluster in small: one Prefect server, process workers as nodes, S3. Anything may be killed; nothing is lost.

The oracle is the same manifest refined quietly by one process on a local disk: equal bytes for every item.

Last full run: 2026-11-23, eb9636e, `pytest -s -m slow tests/flows/test_lanes.py`, two cores shared with other work:
3000 items in 373 s, nine lanes, three of them crashed; passed.
"""

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow.compute as pc
import pytest

from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.job.launch import Node
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.run_folder import fingerprint_parts, open_run
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model
from tests.support.node import make_items
from tests.support.servers.s3_proxy import Fault, Proxy
from tests.support.servers.site import Site, end, kill, tree, wait_for

pytestmark = pytest.mark.processes

QUICK = {
    "publish": "all",
    "model": {"steps": 2, "device": "cpu", "batch_size": 1},
    "focus": {"focus_pixels": 4096, "tiles": "none"},
}
WAIT_S = 400.0
"""Generous: shared machines start a Python with torch in anything from 5 to 60 seconds."""
WORKER = {"flush_items": 2, "flush_s": 0.5, "grace_s": 10.0, "read_threads": 1, "write_threads": 1}


@pytest.fixture
def nodes(site: Site) -> Iterator[Site]:
    """The site with a worker for parents; every process started during the test ends with it."""
    before = len(site._processes)
    site.worker("refine-ops", "control", limit=4)
    yield site
    print(site.logs(), file=sys.stderr)
    for process in site._processes[before:]:
        if process is not site._server:
            end(process)


def upload(folder: Path, count: int, prefix: str) -> str:
    make_items(folder, count)
    client = boto3.client("s3")
    for path in folder.iterdir():
        client.upload_file(str(path), "lake", f"{prefix}/{path.name}")
    return f"s3://lake/{prefix}/manifest.jsonl"


def settings(manifest: str, out: str, **more: Any) -> dict[str, Any]:
    return {
        "manifest": manifest,
        "out": out,
        "report_items": 0,
        "allow_tiny": True,
        "refine": QUICK,
        "worker": WORKER,
        "lanes": "work-pool",
        "lane_count": 2,
        "shard_items": 6,
        **more,
    }


def refine_quietly(config: dict[str, Any], out: Path) -> dict[str, str]:
    """SHA-256 by output name, from one process on a local disk."""
    local = RefineBatchConfig.model_validate({**config, "out": str(out), "lanes": "local"})
    weights = fingerprint_model(resolve_model(local.refine.model), local.refine.model)
    folder = replace(open_run(local.out, fingerprint_parts(local.refine, weights), {}), start=1)
    make_plan(local.manifest, folder.uri, access=local.access, shard_items=local.shard_items)
    ledger = read_known(folder.outcomes, PlanReader(folder.plan))
    Node(folder, local, 1).run(remaining(PlanReader(folder.plan), ledger, recheck=False, retry_dead=False))
    return {p.name: storage.sha256(p.read_bytes()) for p in (out / "outputs/00000001").iterdir()}


def published(out: str) -> dict[str, str]:
    return {uri.rsplit("/", 1)[1]: storage.sha256(storage.read(uri)) for uri in storage.list_files(f"{out}/outputs")}


def count_done(out: str) -> int:
    return read_ledger(f"{out}/outcomes", []).num_rows


def check(out: str, oracle: dict[str, str], count: int) -> None:
    ledger = read_ledger(f"{out}/outcomes")
    assert sorted(ledger["item_id"].to_pylist()) == [f"item-{i:04}" for i in range(count)], "each item exactly once"
    assert pc.all(pc.equal(ledger["status"], "done")).as_py()
    found = published(out)
    assert found == oracle, "bytes differ from the quiet run"
    recorded = dict(zip(ledger["output"].to_pylist(), ledger["output_sha256"].to_pylist(), strict=True))
    assert recorded == found, "the ledger describes other bytes than those published"


@pytest.mark.timeout(1800)
def test_lanes_are_killed_the_parent_is_killed_the_server_restarts(nodes: Site, s3: Proxy, tmp_path: Path) -> None:
    """Each output takes two seconds to store until the parent is dead, so that everything dies in mid-work."""
    s3.faults.append(Fault("slow", method="PUT", path="/outputs/", times=10_000))
    count, out = 72, "s3://lake/run-small"
    config = settings(upload(tmp_path / "images", count, "small"), out)
    control, first, second = nodes._processes[-1], nodes.worker("refine-lanes", "a"), nodes.worker("refine-lanes", "b")
    before = len(nodes.lanes())
    parent = nodes.run("refine-batch/refine-batch", config)

    wait_for("first outcomes", lambda: count_done(out) >= 2, WAIT_S)
    kill([nodes.process_of(first)], signal.SIGKILL)  # the lane's process dies; its agent and ranks follow
    wait_for("a new lane for the killed one's shards", lambda: len(nodes.lanes()) == before + 3, WAIT_S)
    kill([nodes.process_of(second)], signal.SIGTERM)  # what a node gets before it goes
    wait_for("a new lane for the preempted one's shards", lambda: len(nodes.lanes()) == before + 4, WAIT_S)
    nodes.kill_server()
    nodes.start_server()
    wait_for("lanes at work", lambda: nodes.lanes("RUNNING"), WAIT_S)
    kill(tree(nodes.process_of(control)))  # the parent dies without a word; its lanes do not notice
    s3.faults.clear()
    orphans = {lane["id"] for lane in nodes.lanes("SCHEDULED", "PENDING", "RUNNING")}
    second_parent = nodes.run("refine-batch/refine-batch", config)
    assert nodes.finish(second_parent, WAIT_S) == "COMPLETED", nodes.logs()

    assert nodes.state(parent) in ("CRASHED", "RUNNING"), "it was killed, so it never completed"
    assert {lane["id"] for lane in nodes.lanes("COMPLETED")} & orphans, "the second parent kept lanes at work"
    check(out, refine_quietly(config, tmp_path / "quiet"), count)


@pytest.mark.timeout(900)
def test_cancelling_the_parent_cancels_its_lanes(nodes: Site, tmp_path: Path) -> None:
    out = "s3://lake/run-cancelled"
    config = settings(upload(tmp_path / "images", 4, "cancelled"), out, lane_count=2, shard_items=2)
    before = len(nodes.lanes())
    parent = nodes.run("refine-batch/refine-batch", config)
    wait_for("both lanes", lambda: len(nodes.lanes()) == before + 2, WAIT_S)  # nobody works here: they stay scheduled
    nodes.prefect("flow-run", "cancel", parent)
    assert nodes.finish(parent, WAIT_S) == "CANCELLED"
    wait_for("lanes cancelled", lambda: not nodes.lanes("SCHEDULED", "PENDING", "RUNNING", "CANCELLING"), WAIT_S)
    assert storage.exists(f"{out}/plan.parquet")


def canary(folder: Path, out: str) -> dict[str, Any]:
    """Four items of one shard each, two of them the canary."""
    gates = {"max_dead": 1.0, "max_de00": 99.0, "max_shift_px": 99.0}
    config = settings(upload(folder / "images", 4, out.rsplit("/", 1)[1]), out, lane_count=4, shard_items=1)
    return config | {"canary": 2, "canary_limits": gates, "lane_attempts": 1}


@pytest.mark.timeout(900)
def test_the_canary_is_one_lane_and_nothing_else_is_dispatched_before_it(nodes: Site, tmp_path: Path) -> None:
    before = len(nodes.lanes())
    parent = nodes.run("refine-batch/refine-batch", canary(tmp_path, "s3://lake/canary-waits"))
    wait_for("the canary's lane", lambda: len(nodes.lanes()) > before, WAIT_S)
    nodes.call(f"/flow_runs/{parent}/set_state", {"state": {"type": "CANCELLING"}})
    assert nodes.finish(parent, WAIT_S) == "CANCELLED"
    assert [len(lane["parameters"]["config"]["shards"]) for lane in nodes.lanes()[before:]] == [2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_canary_is_one_lane_and_what_follows_has_its_own(nodes: Site, tmp_path: Path) -> None:
    """The same with workers, to its end. Last run: 2026-11-27, af4f642: passed in 149 s."""
    out, count = "s3://lake/run-canary", 4
    config = canary(tmp_path, out)
    before = len(nodes.lanes())
    parent = nodes.run("refine-batch/refine-batch", config)
    wait_for("the canary's lane", lambda: len(nodes.lanes()) > before, WAIT_S)
    nodes.worker("refine-lanes", "a", limit=2)
    assert nodes.finish(parent, WAIT_S) == "COMPLETED", nodes.logs()
    lanes = nodes.lanes()[before:]
    assert [len(lane["parameters"]["config"]["shards"]) for lane in lanes] == [2, 1, 1]
    assert {lane["state_type"] for lane in lanes} == {"COMPLETED"}
    assert count_done(out) == count


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_three_nodes_and_3000_items_lose_nodes_parent_and_server(nodes: Site, tmp_path: Path) -> None:
    count, out = 3000, "s3://lake/run-large"
    config = settings(upload(tmp_path / "images", count, "large"), out, lane_count=6, shard_items=100)
    config["refine"] = {**QUICK, "model": {**QUICK["model"], "steps": 1}}
    config["worker"] = {**WORKER, "flush_items": 16}
    limit_s = 9000.0
    control = nodes._processes[-1]
    fleet = [nodes.worker("refine-lanes", f"node-{i}") for i in range(3)]
    started = time.monotonic()
    nodes.run("refine-batch/refine-batch", config)

    def done(items: int) -> None:
        wait_for(f"{items} outcomes", lambda: count_done(out) >= items, limit_s, 2.0)

    done(100)
    end(fleet[0])  # a node is gone, worker and all: only its heartbeat tells
    fleet[0] = nodes.worker("refine-lanes", "node-0-again")
    done(500)
    kill([nodes.process_of(fleet[1])], signal.SIGTERM)
    done(900)
    nodes.kill_server()
    nodes.start_server()
    done(1300)
    kill(tree(nodes.process_of(control)))
    second_parent = nodes.run("refine-batch/refine-batch", config)
    done(1800)
    kill([nodes.process_of(fleet[2])], signal.SIGKILL)
    done(2300)
    fleet[1].terminate()  # the worker is asked to go, as before an upgrade; it may take its time
    assert nodes.finish(second_parent, limit_s) == "COMPLETED", nodes.logs()

    states = [lane["state_type"] for lane in nodes.lanes()]
    print(f"lanes: {len(states)}, of them {states.count('CRASHED')} crashed, {states.count('COMPLETED')} completed")
    print(f"{count} items in {time.monotonic() - started:.0f} s")
    check(out, refine_quietly(config, tmp_path / "quiet"), count)
