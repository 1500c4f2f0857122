"""One torch elastic launch on this node, as a child that cannot outlive its parent.

The child is this module run as a script: it asks the kernel to be told when its parent dies, then becomes torch's
elastic agent. (`accelerate launch` with one process leaves an orphan on SIGTERM; the agent forwards signals.) The agent
gives each rank a session of its own, so ranks call `die_with_parent` themselves, first thing.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from refine_ops.config import child_environment

_PR_SET_PDEATHSIG = 1


def run_elastic(
    module: str,
    arguments: Sequence[str],
    *,
    processes: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] | None = None,
    tick_s: float = 0.5,
    grace_s: float = 30.0,
) -> int:
    """Run `python -m module *arguments` as `processes` ranks and wait; call it from the main thread.

    Ranks get torch's usual environment (`RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`). Any
    exception here, an interrupt too, ends the whole process group: SIGTERM, `grace_s` seconds, SIGKILL.

    Args:
        log: File that receives stdout and stderr of the agent and all ranks.
        on_tick: Called about every `tick_s` seconds while the ranks run.

    Returns:
        The agent's exit code: 0, or 1 if any rank failed. Which rank, and why, is for the caller's own records.
    """
    command = [sys.executable, "-m", __name__, str(os.getpid()), "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", "0", "--module", module, *arguments]
    env = {**child_environment(), **(environment or {})}
    if processes > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    else:
        env.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        return _supervise(_start(command, env, sink), on_tick, tick_s, grace_s)


def _start(command: list[str], env: dict[str, str], sink: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
    )


def _supervise(
    agent: "subprocess.Popen[bytes]", on_tick: Callable[[], None] | None, tick_s: float, grace_s: float
) -> int:
    try:
        while True:
            try:
                return agent.wait(timeout=tick_s)
            except subprocess.TimeoutExpired:
                if on_tick:
                    on_tick()
    except BaseException:
        _signal_group(agent, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while agent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        raise
    finally:
        _signal_group(agent, signal.SIGKILL)
        agent.wait()


def _signal_group(agent: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(agent.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def die_with_parent(parent_pid: int | None = None) -> None:
    """Ask for SIGTERM when the parent dies (Linux); exit at once if it is dead already."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent_pid is None else parent_pid
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def _agent(parent_pid: str, *arguments: str) -> None:
    # Before torch is imported, which takes seconds in which the parent may die.
    die_with_parent(int(parent_pid))
    from torch.distributed.run import main

    main(list(arguments))


if __name__ == "__main__":
    _agent(*sys.argv[1:])
