"""The launcher's local scratch folder: what it tells the ranks of one launch, and what they tell it.

Ranks append to a journal what they take up and let go; after a death it names the suspects. Writes go straight to the
kernel, so they survive the death of the process.
"""

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from refine_ops.config import AccessSettings, HeldOutput, KeepPatches, RefineSettings, WorkerSettings

_AGENT_REPORT: Final = "torch/distributed/elastic/multiprocessing/api.py"


@dataclass(frozen=True, slots=True)
class Spec:
    """What every rank of a launch is to do. `solo` runs one item at a time, so that a death names its item; `writer`
    marks the ledger parts of this launch, so that its end need not read anybody else's; from `until` on (seconds since
    1970) nothing new is taken."""

    run: str
    fingerprint: str
    start: int
    refine: RefineSettings
    worker: WorkerSettings
    access: AccessSettings
    keep_patches: KeepPatches
    solo: bool
    writer: str = "rank"
    until: float | None = None
    held_output: HeldOutput = "none"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One item for the ranks: its position in the plan, and how often it was taken up before in this start by ranks
    that died."""

    position: int
    earlier_attempts: int = 0


Assignments = npt.NDArray[np.void]
"""Many of them, as a structured array: a node may be given millions."""
_ASSIGNMENT: Final = np.dtype([("position", np.int64), ("earlier_attempts", np.int32)])


def assignments_of(many: Iterable[Assignment]) -> Assignments:
    return np.array([astuple(one) for one in many], _ASSIGNMENT)


@dataclass(slots=True)
class Counts:
    """What a rank has brought to an outcome so far: items and regions; seconds of model work, to load the model, and to
    the first image."""

    done: int = 0
    dead: int = 0
    held: int = 0
    regions: int = 0
    model_s: float = 0.0
    load_s: float = 0.0
    first_image_s: float = 0.0

    @property
    def detail(self) -> str:
        """What did not come through, if anything."""
        return ", ".join(f"{count} {what}" for count, what in ((self.held, "held"), (self.dead, "dead")) if count)


class Scratch:
    """Files of one launch below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        return self.path / "ranks.log"

    def assign(self, spec: Spec, assignments: Assignments) -> None:
        """Tell the ranks what to do; `assignments` are taken in their order."""
        models = {name: getattr(spec, name).model_dump(mode="json") for name in ("refine", "worker", "access")}
        plain = {
            "run": spec.run,
            "fingerprint": spec.fingerprint,
            "start": spec.start,
            "keep_patches": spec.keep_patches,
            "solo": spec.solo,
            "writer": spec.writer,
            "until": spec.until,
            "held_output": spec.held_output,
        }
        np.save(self.path / "assignments.npy", assignments)
        _replace(self.path / "spec.json", json.dumps({**plain, **models}))

    @property
    def has_assignments(self) -> bool:
        return (self.path / "spec.json").exists()  # written last, and whole

    def assigned(self) -> tuple[Spec, Assignments]:
        raw = json.loads((self.path / "spec.json").read_text())
        raw["refine"] = RefineSettings.model_validate(raw["refine"])
        raw["worker"] = WorkerSettings.model_validate(raw["worker"])
        raw["access"] = AccessSettings.model_validate(raw["access"])
        return Spec(**raw), np.load(self.path / "assignments.npy")

    def write_counts(self, rank: int, counts: Counts) -> None:
        _replace(self.path / f"counts-{rank}.json", json.dumps(asdict(counts)))

    def counts(self) -> Counts:
        """What all ranks have done; load and first-image times are the slowest rank's."""
        ranks = [Counts(**json.loads(p.read_text())) for p in self.path.glob("counts-*.json")]
        return Counts(
            done=sum(r.done for r in ranks),
            dead=sum(r.dead for r in ranks),
            held=sum(r.held for r in ranks),
            regions=sum(r.regions for r in ranks),
            model_s=sum(r.model_s for r in ranks),
            load_s=max((r.load_s for r in ranks), default=0.0),
            first_image_s=max((r.first_image_s for r in ranks), default=0.0),
        )

    def write_error(self, rank: int, message: str) -> None:
        _replace(self.path / f"error-{rank}.txt", message)

    def errors(self) -> list[str]:
        """Why ranks gave up, for what concerns the whole job; a rank that was killed leaves nothing."""
        return [p.read_text() for p in sorted(self.path.glob("error-*.txt"))]

    def in_flight(self) -> list[int]:
        """Positions that some rank took up and never let go."""
        held: set[int] = set()
        for path in self.path.glob("journal-*"):
            for line in path.read_text().splitlines():
                if line[1:].isdigit():
                    (held.add if line[0] == "+" else held.discard)(int(line[1:]))
        return sorted(held)

    def log_tail(self, characters: int = 2000) -> str:
        """The end of what the ranks wrote, without the traceback that torch's agent adds when one of them ends."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text.partition(_AGENT_REPORT)[0][-characters:]


class Journal:
    """One rank's record of what it holds; thread-safe."""

    def __init__(self, scratch: Scratch, rank: int) -> None:
        self._file = os.open(scratch.path / f"journal-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def take(self, position: int) -> None:
        self._write(f"+{position}\n")

    def let_go(self, position: int) -> None:
        self._write(f"-{position}\n")

    def _write(self, line: str) -> None:
        with self._lock:
            os.write(self._file, line.encode())


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
