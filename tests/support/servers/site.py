"""A real Prefect installation for tests: a server with its own database, process workers, the shipped deployments."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import ROOT

AUTH = "operator:in-this-test-alone"
"""What the server asks for, as `infra/README.md` says to set it."""
POOLS = ("refine-ops", "refine-training", "refine-reports", "refine-lanes")
_PREFECT = str(Path(sys.executable).with_name("prefect"))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(what: str, ready: Callable[[], Any], timeout_s: float, every_s: float = 0.2) -> Any:
    """The first true value of `ready()`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := ready():
            return value
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s")


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all below it, if it still runs; the number of one that ended may be somebody else's by now."""
    if process.poll() is None:
        kill(tree(process.pid))
        process.wait()


class Site:
    """Server and workers below `home`; `environment` is added to all of them. Close it, or processes stay."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.port = home, free_port()
        home.mkdir(parents=True, exist_ok=True)
        self.env = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_AUTH_STRING": AUTH,
            "PREFECT_API_AUTH_STRING": AUTH,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server = self.start_server()

    def start_server(self) -> subprocess.Popen[bytes]:
        self._server = self._start("server", "server", "start", "--no-ui", "--port", str(self.port))
        wait_for("Prefect server", self._healthy, 120)
        return self._server

    def kill_server(self) -> None:
        end(self._server)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def deploy(self) -> str:
        """What the head of `infra/prefect.yaml` says, word for word."""
        for pool in POOLS:
            self.prefect("work-pool", "create", pool, "--type", "process")
        output = self.prefect(
            "--no-prompt",
            "deploy",
            "--prefect-file",
            "infra/prefect.yaml",
            "--all",
        )
        return output + self.prefect("automation", "create", "--from-file", "infra/automations.yaml")

    def prefect(self, *arguments: str) -> str:
        """Run the command line from the repository root; its output."""
        done = subprocess.run([_PREFECT, *arguments], cwd=ROOT, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"prefect {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def worker(self, pool: str, name: str, limit: int = 1) -> subprocess.Popen[bytes]:
        """A process worker outside the repository, where only the installed package can be imported."""
        return self._start(name, "worker", "start", "--pool", pool, "--name", name, "--limit", str(limit))

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [_PREFECT, *arguments],
                cwd=self.home,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(self, deployment: str, config: dict[str, Any]) -> str:
        """Start a deployment's run, as `prefect deployment run` does but without importing Prefect; its id."""
        body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
        found = self.call(f"/deployments/name/{deployment}")["id"]
        return str(self.call(f"/deployments/{found}/create_flow_run", body)["id"])

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's REST API, as somebody who may: GET, or POST with a body. It is asked again while its database is
        locked, which a busy machine's SQLite is at times and Prefect's client bears too."""
        data = None if body is None else json.dumps(body).encode()
        known = base64.b64encode(AUTH.encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {known}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api{path}", data, headers)
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)

    def state(self, run_id: str) -> str:
        try:
            return str(self.call(f"/flow_runs/{run_id}")["state"]["type"])
        except (urllib.error.URLError, OSError):
            return "UNKNOWN"

    def finish(self, run_id: str, timeout_s: float) -> str:
        """The run's final state; how it came to any but COMPLETED is printed, for whoever reads a test's failure."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        ended = wait_for(f"run {run_id}", lambda: s if (s := self.state(run_id)) in final else None, timeout_s, 1.0)
        if ended != "COMPLETED":
            for state in self.call(f"/flow_run_states/?flow_run_id={run_id}"):
                print(run_id, state["timestamp"], state["name"], state["message"], file=sys.stderr)
        return str(ended)

    def lanes(self, *states: str) -> list[dict[str, Any]]:
        """All runs of refine-shards, oldest first, of the given states or of any."""
        found = self.call("/flow_runs/filter", {"flows": {"name": {"any_": ["refine-shards"]}}, "limit": 200})
        found.sort(key=lambda r: r["created"])
        return [r for r in found if not states or r["state_type"] in states]

    def process_of(self, worker: subprocess.Popen[bytes]) -> int:
        """The process of the flow run a worker has in hand."""

        def found() -> int | None:
            below = tree(worker.pid)[1:]
            return next((pid for pid in below if b"prefect" in _command(pid) and b"elastic" not in _command(pid)), None)

        return int(wait_for("a flow run's process", found, 60))

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-6000:]}" for p in self.home.glob("*.log"))

    def close(self) -> None:
        for process in self._processes:
            end(process)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
