"""Starts: one run of the command over a run folder, as a record -- the lock, the order without clocks, the night.

    starts/00000042.json         what was started: manifest and its SHA-256, settings, weights, versions
    starts/00000042.alive.json   rewritten every 20 s with a counter by the process that holds the start
    starts/00000042.void.json    refused by its canary, or rolled back: what it refined counts for nothing
    starts/00000042.end.json     how it ended

Records and ends are created only if absent, so of two that open at once one is refused, on every store that honours
conditional writes. Nothing compares clocks of two machines: order is the number, and life is a counter that moves.
"""

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from refine_ops import storage
from refine_ops.errors import ItemError, JobError, Missing

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 20.0
PATIENCE_S: Final = 3 * HEARTBEAT_S
"""How long another machine's start must stand still before it counts as dead; one late heartbeat is no death."""

Exit = Literal["done", "budget", "canary", "deadline", "failed", "stopped", "taken-over"]
"""How a start ended. `canary`: refused by its canary, its outcomes are void. `taken-over`: its process died."""


_open_here: set[str] = set()
"""Tokens of the starts that this process holds. One that it let go of without being able to write its end (a full
disk) is over all the same."""


class RunInUse(JobError):
    """Another process is working in this run folder right now."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a start. `born` tells it from a later process of equal number (clock ticks since boot)."""

    host: str
    boot: str
    pid: int
    born: str
    token: str

    @classmethod
    def this_process(cls) -> "Owner":
        return cls(platform.node(), _boot_id(), os.getpid(), _born(os.getpid()), uuid.uuid4().hex)

    def gone(self) -> bool | None:
        """Whether the process has ended; None where only its own machine could tell."""
        if (self.host, self.boot) != (platform.node(), _boot_id()):
            return None
        # In containers process numbers repeat from one run to the next: the token tells whose start this is.
        if self.pid == os.getpid():
            return self.token not in _open_here
        # Numbers are used again: it is the same process only if it was born at the same tick.
        return _born(self.pid) != self.born


@dataclass(frozen=True, slots=True)
class StartRecord:
    """A start as its files tell it. `what` is free-form: manifest, settings, weights, versions; `end` None: open."""

    number: int
    opened_at: float
    owner: Owner
    what: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] | None = None

    @property
    def exit(self) -> Exit | None:
        found: Exit | None = None if self.end is None else self.end["exit"]
        return found


class Start:
    """A start that this process holds, kept alive by a thread until `close`.

    `lost` is set when another process took the start over (this one was paused or cut off for over a minute): what was
    written stays valid, but nothing more may be committed.
    """

    def __init__(self, run: str, number: int, token: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.run, self.number, self._token = run, number, token
        _open_here.add(token)
        self.lost = threading.Event()
        self._heartbeat_s = heartbeat_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True, name=f"start-{number}")
        self._thread.start()

    def close(self, exit: Exit, **counts: Any) -> None:
        """Say how it ended, once; a start that was taken over keeps the end it was given.

        Raises:
            JobError: that cannot be written; the start is over nevertheless, and the next one says so.
        """
        self._ended.set()
        self._thread.join()
        _open_here.discard(self._token)
        _end(self.run, self.number, exit, counts)

    def void(self) -> None:
        """What this start refined counts for nothing from now on."""
        void_start(self.run, self.number)

    def refuse_if_lost(self) -> None:
        """Call before anything is committed.

        Raises:
            RunInUse: another process took over.
        """
        # The store is asked too: a process that was paused may wake up here before its heartbeat does.
        if self.lost.is_set() or storage.exists(_path(self.run, self.number, ".end")):
            self.lost.set()
            raise RunInUse(
                f"start {self.number} of {self.run} was taken over by another process while this one stood still; "
                "what it refined is kept, the newer start commits it"
            )

    def _keep_alive(self) -> None:
        count = 0
        while not self._ended.is_set():
            try:
                storage.write(_path(self.run, self.number, ".alive"), json.dumps({"count": count}).encode())
                if storage.exists(_path(self.run, self.number, ".end")):
                    self.lost.set()
                    return
            except (ItemError, JobError) as e:  # a brown-out of the store; the next beat tries again
                logger.warning("start %d: no heartbeat: %s", self.number, e)
            count += 1
            self._ended.wait(self._heartbeat_s)


def open_start(
    run: str,
    what: dict[str, Any],
    *,
    heartbeat_s: float = HEARTBEAT_S,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], object] = time.sleep,
) -> Start:
    """Open the next start of a run folder; one whose process died is closed as `taken-over` first.

    On the dead process's own machine that is seen at once; from another one after `patience_s` without a heartbeat.

    Raises:
        RunInUse: another process is at work in the run folder, or opened it in this moment.
        JobError: the folder cannot be read or written.
    """
    numbers = _numbers(run)
    newest = numbers[-1] if numbers else 0
    if newest and (record := read_start(run, newest)).end is None:
        if _alive(run, record, patience_s, sleep):
            raise RunInUse(_in_use(run, record))
        logger.warning("start %d of %s died; this one takes over", newest, run)
        # Its end first: should it wake up, it finds that it is over before the new start writes anything.
        _end(run, newest, "taken-over", {})
    owner = Owner.this_process()
    text = json.dumps({"version": 1, "opened_at": time.time(), "owner": _fields(owner), "what": what}, indent=1)
    try:
        storage.write(_path(run, newest + 1), text.encode(), only_if_absent=True)
    except ItemError as e:
        raise RunInUse(f"another start of {run} was opened at this moment; wait for it, or stop it") from e
    return Start(run, newest + 1, owner.token, heartbeat_s)


def read_starts(run: str) -> list[StartRecord]:
    """All starts of a run folder, oldest first.

    Raises:
        JobError: one is there but cannot be read.
    """
    return [read_start(run, number) for number in _numbers(run)]


def read_start(run: str, number: int) -> StartRecord:
    """One start.

    Raises:
        JobError: it is absent or cannot be read.
    """
    try:
        record = json.loads(storage.read(_path(run, number)))
        owner = Owner(**record["owner"])
        return StartRecord(number, record["opened_at"], owner, record["what"], _read_end(run, number))
    except (ItemError, ValueError, KeyError, TypeError) as e:
        raise JobError(f"start {number} of {run} cannot be read: {e}; restore {_path(run, number)}") from e


def start_numbers(run: str) -> list[int]:
    """Of all starts, oldest first; no record is opened."""
    return _numbers(run)


def newest_with(run: str, what: str) -> StartRecord | None:
    """The latest start that was not voided and recorded `what`: what refines does, upkeep's commands do not.

    Raises:
        JobError: one cannot be read.
    """
    # A voided start's settings are not the folder's: whoever was refused by the canary may go back to the old ones.
    void = void_starts(run)
    records = (read_start(run, number) for number in reversed(_numbers(run)) if number not in void)
    return next((record for record in records if what in record.what), None)


def void_start(run: str, number: int) -> None:
    """What a start refined counts for nothing from now on: nobody skips it, nothing of it is published."""
    storage.write(_path(run, number, ".void"), b"{}")


def void_starts(run: str) -> frozenset[int]:
    """Starts whose outcomes count for nothing: refused by their canary, or rolled back. One listing, no record is
    opened."""
    return frozenset(_numbers(run, ".void"))


def _alive(run: str, record: StartRecord, patience_s: float, sleep: Callable[[float], object]) -> bool:
    gone = record.owner.gone()
    if gone is not None:
        return not gone
    logger.warning(
        "start %d of %s is open on %s; watching its heartbeat for %.0f s",
        record.number,
        run,
        record.owner.host,
        patience_s,
    )
    # The count is compared, never the time: clocks of two machines may differ by more than the patience.
    before = _heartbeat(run, record.number)
    sleep(patience_s)
    return _read_end(run, record.number) is None and _heartbeat(run, record.number) != before


def _heartbeat(run: str, number: int) -> bytes | None:
    try:
        return storage.read(_path(run, number, ".alive"))
    except Missing:
        return None


def _end(run: str, number: int, exit: Exit, counts: dict[str, Any]) -> None:
    text = json.dumps({"exit": exit, "ended_at": time.time(), **counts}, indent=1)
    with contextlib.suppress(ItemError):  # it has an end already: the first one stands
        storage.write(_path(run, number, ".end"), text.encode(), only_if_absent=True)


def _read_end(run: str, number: int) -> dict[str, Any] | None:
    try:
        end: dict[str, Any] = json.loads(storage.read(_path(run, number, ".end")))
        return end
    except Missing:
        return None


def _numbers(run: str, kind: str = "") -> list[int]:
    names = (uri.rsplit("/", 1)[-1] for uri in storage.list_files(storage.join(run, "starts"), f"{kind}.json"))
    return sorted(int(number) for name in names if (number := name.removesuffix(f"{kind}.json")).isdigit())


def _path(run: str, number: int, kind: str = "") -> str:
    return storage.join(run, "starts", f"{number:08d}{kind}.json")


def _in_use(run: str, record: StartRecord) -> str:
    return (
        f"{run} is in use: start {record.number}, process {record.owner.pid} on {record.owner.host}. Wait until it "
        "ends, or stop it; whatever it was doing is then gone on with by the same command."
    )


def _fields(owner: Owner) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in Owner.__slots__}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process was started, as the kernel counts; empty if it is not there (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "alive"  # no /proc here: a number in use is taken for the same process
        return ""
