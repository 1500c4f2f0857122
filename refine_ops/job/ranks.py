"""The ranks of one launch: one by itself, without agent, process group or port, or several under torch's agent.

Either is a context manager with a `scratch` of its own: assign there, then `wait`. Make them in the main thread.
"""

import ctypes.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from refine_ops.job.child import Child
from refine_ops.job.elastic import run_elastic
from refine_ops.job.scratch import Scratch

RANK_MODULE = "refine_ops.job.rank.worker"


def ranks_here(wanted: int | None, device: str) -> int:
    """Ranks on this node: as wanted, else one per GPU, else one."""
    return wanted or (1 if device == "cpu" else max(1, count_gpus()))


def count_gpus() -> int:
    """As torch counts them; it is asked in a process of its own, and only where there is a driver, because importing it
    costs a second and a process that only plans needs nothing else of it."""
    if not any(map(ctypes.util.find_library, ("cuda", "amdhip64"))):
        return 0
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0


class SoleRank:
    """A rank that imports what it needs at once, and waits for what it is assigned; it ends with the `with`."""

    def __init__(self, module: str = RANK_MODULE) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="refine-ops-")
        self.scratch = Scratch(Path(self._folder.name))
        arguments = ["--scratch", self._folder.name, "--parent", str(os.getpid())]
        self._child = Child([sys.executable, "-m", module, *arguments], self.scratch.log)

    def __enter__(self) -> "SoleRank":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._folder.cleanup()

    def wait(self, on_tick: Callable[[], None], grace_s: float) -> int:
        """The rank's exit code, once it has done what it was assigned; an exception here asks it to stop."""
        return self._child.wait(on_tick, grace_s=grace_s)


class ElasticRanks:
    """`processes` ranks that share one counter; they start with `wait`."""

    def __init__(self, processes: int, module: str = RANK_MODULE) -> None:
        self._processes, self._module = processes, module
        self._folder = tempfile.TemporaryDirectory(prefix="refine-ops-")
        self.scratch = Scratch(Path(self._folder.name))

    def __enter__(self) -> "ElasticRanks":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def wait(self, on_tick: Callable[[], None], grace_s: float) -> int:
        """0, or 1 if any rank failed; an exception here asks them to stop."""
        arguments = ["--scratch", self._folder.name]
        return run_elastic(
            self._module,
            arguments,
            processes=self._processes,
            log=self.scratch.log,
            on_tick=on_tick,
            grace_s=grace_s,
        )
