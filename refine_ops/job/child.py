"""A child process that cannot outlive its parent: started in a session of its own, watched, ended with all below it."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from refine_ops.config import child_environment

_PR_SET_PDEATHSIG = 1


class Child:
    """A running child. Start it from the main thread: the kernel tells a child of its parent *thread's* death."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, processes: int = 1
    ) -> None:
        """Start `command`, which becomes `processes` ranks, with `environment` added to this process's; `log` receives
        stdout and stderr."""
        self._gone = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                env={**child_environment(processes), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C reaches the parent alone, which then asks this group to finish.
                start_new_session=True,
            )

    def wait(self, on_tick: Callable[[], None] | None = None, tick_s: float = 0.5, grace_s: float = 30.0) -> int:
        """The exit code, once it has ended. Any exception here, an interrupt too, ends it with everything below it.

        Args:
            on_tick: Called about every `tick_s` seconds meanwhile.
            grace_s: Seconds between SIGTERM and SIGKILL.
        """
        try:
            while True:
                try:
                    return self._process.wait(timeout=tick_s)
                except subprocess.TimeoutExpired:
                    if on_tick:
                        on_tick()
        except BaseException:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            raise
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, and what is left of its group where it has ended."""
        if not self._gone:  # later its number may be somebody else's
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._gone = True

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def die_with_parent(parent_pid: int | None = None) -> None:
    """Ask for SIGTERM when the parent dies (Linux); exit at once if it is dead already.

    A process of `multiprocessing` watches its parent's sentinel instead: a pool starts its processes in whatever thread
    asks for work, and the kernel would tell of the death of that thread.

    Args:
        parent_pid: Who started this process, where it is known; else whoever is the parent now.
    """
    if (pool := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_exit_after, args=(pool.sentinel,), daemon=True).start()
        return
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent_pid is None else parent_pid
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before the request was made; an orphan has another parent by now.
    if os.getppid() != parent:
        sys.exit(1)


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # the main thread may hang in a library, or wait for work that nobody hands out any more
