"""Several ranks as one torch elastic launch on this node.

The child is this module run as a script: it asks the kernel to be told when its parent dies, then becomes torch's
elastic agent. (`accelerate launch` with one process leaves an orphan on SIGTERM; the agent forwards signals.) The agent
gives each rank a session of its own, so ranks call `die_with_parent` themselves, first thing.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refine_ops.job.child import Child, die_with_parent


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
    return Child(command, log, environment, processes).wait(on_tick, tick_s, grace_s)


def _agent(parent_pid: str, *arguments: str) -> None:
    # Before torch is imported, which takes seconds in which the parent may die.
    die_with_parent(int(parent_pid))
    from torch.distributed.run import main

    main(list(arguments))


if __name__ == "__main__":
    _agent(*sys.argv[1:])
