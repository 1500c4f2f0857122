"""The shipped deployments on a real Prefect server, and the nightly run on a real process worker."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from refine_ops.job.ledger import read_ledger
from tests.support import ROOT
from tests.support.node import make_items
from tests.support.servers.site import Site, end, wait_for

pytestmark = pytest.mark.processes

SHIPPED = {
    *("refine-batch", "refine-shards", "train-lora", "refine-eval", "drift-report", "build-dataset"),
    "detect-regions",
}
QUICK = {"publish": "all", "model": {"steps": 1, "device": "cpu"}, "focus": {"focus_pixels": 4096, "tiles": "none"}}


def test_everything_is_deployed_and_nothing_runs_by_itself(site: Site) -> None:
    found = {d["name"]: d for d in site.call("/deployments/filter", {})}
    assert set(found) == SHIPPED
    for name, deployment in found.items():
        assert deployment["entrypoint"].startswith("flows."), "a module: a worker needs no copy of the repository"
        assert str(ROOT) not in json.dumps(deployment["pull_steps"]), "this machine's directory is not baked in"
        assert all(not schedule["active"] for schedule in deployment["schedules"]), f"{name} would run by itself"
        assert "config" in deployment["parameter_openapi_schema"]["properties"], f"{name} has no typed form"
        assert deployment["enforce_parameter_schema"]
    assert found["refine-batch"]["schedules"][0]["schedule"]["cron"] == "0 1 * * *"
    limited = {name: d["concurrency_options"] for name, d in found.items() if d["concurrency_options"]}
    assert set(limited) == {"drift-report"}, "a limit is a lease, and a server that restarts ends who holds one"
    assert limited["drift-report"]["collision_strategy"] == "CANCEL_NEW"
    assert found["refine-shards"]["work_pool_name"] == "refine-lanes"
    assert found["train-lora"]["work_pool_name"] == "refine-training", "a training holds up no night"
    assert found["drift-report"]["work_pool_name"] == "refine-reports", "and a night holds up no report of the last one"


def test_nobody_without_the_password_is_served(site: Site) -> None:
    for given in ({}, {"Authorization": "Basic b3BlcmF0b3I6Z3Vlc3NlZA=="}):
        asked = urllib.request.Request(f"http://127.0.0.1:{site.port}/api/admin/version", headers=given)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked, timeout=30)


def test_lost_runs_are_noticed(site: Site) -> None:
    automations = {a["name"]: a for a in site.call("/automations/filter", {})}
    assert automations["refine-ops: lost runs"]["enabled"]
    wanted = yaml.safe_load((ROOT / "infra/automations.yaml").read_text())["automations"]
    assert set(automations) == {a["name"] for a in wanted}


def test_a_misspelt_setting_is_refused_before_anything_runs(site: Site) -> None:
    config = json.dumps({"manifst": "m.jsonl", "out": "/nowhere"})
    with pytest.raises(AssertionError, match="manifst"):
        site.prefect("deployment", "run", "refine-batch/refine-batch", "-p", f"config={config}")


class Operator(BaseHTTPRequestHandler):
    """Whoever is told; takes what a chat's webhook takes."""

    heard: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.mark.timeout(600)
def test_an_operator_hears_of_a_failed_night_and_of_a_missing_one(site: Site, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Operator)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    for _ in range(2):  # the second replaces the first
        command = [sys.executable, "-m", "flows.alarms", url, "--hours", str(12 / 3600)]
        done = subprocess.run(command, cwd=ROOT, env=site.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    names = done.stdout.split("\n")[:3]
    assert [a["name"] for a in site.call("/automations/filter", {}) if a["name"] in names] != []
    worker = site.worker("refine-ops", "alarmed")
    try:
        wait_for("the dead man's switch", lambda: [h for h in Operator.heard if "no night completed" in h], 120)
        config = {"manifest": str(tmp_path / "none.csv"), "out": str(tmp_path / "run")}
        run_id = site.run("refine-batch/refine-batch", config)
        assert site.finish(run_id, 300) == "FAILED", site.logs()
        heard = wait_for("a failed run", lambda: [h for h in Operator.heard if "a run failed" in h], 120)
        assert "refine-batch" in heard[0]
        assert "names no model" in heard[0], "it says why"
        assert not (tmp_path / "run").exists()
    finally:
        end(worker)
        server.shutdown()
        for automation in site.call("/automations/filter", {}):
            if automation["name"] in names:
                site.prefect("automation", "delete", "--id", automation["id"])


@pytest.mark.timeout(1500)
def test_the_nightly_run_refines_and_then_finds_nothing_to_do(site: Site, tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 6)
    config = {"manifest": str(manifest), "out": str(tmp_path / "run"), "refine": QUICK, "report_items": 0}
    config["allow_tiny"] = True  # without it the run fails: the operator of the test above hears of that
    worker = site.worker("refine-ops", "nightly")
    try:
        run_id = site.run("refine-batch/refine-batch", config)
        assert site.finish(run_id, 600) == "COMPLETED", site.logs()
        ledger = read_ledger(str(tmp_path / "run" / "outcomes"))
        assert ledger["status"].to_pylist() == ["done"] * 6
        written = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "current").iterdir()}
        assert len(written) == 6
        again = site.run("refine-batch/refine-batch", config)
        assert site.finish(again, 600) == "COMPLETED", site.logs()
        assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "current").iterdir()} == written
    finally:
        end(worker)  # Prefect's workers do not always heed SIGTERM


def test_flows_are_imported_from_the_installed_package(tmp_path: Path) -> None:
    """What a worker does: import the entrypoint from another directory than the repository."""
    import sys

    document = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())
    modules = sorted({d["entrypoint"].split(":")[0] for d in document["deployments"]})
    code = f"import importlib\nfor m in {modules}: importlib.import_module(m)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
