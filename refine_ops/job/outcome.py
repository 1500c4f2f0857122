"""Where an item becomes done, held or dead: the only maker of outcomes.

An item is tried: what is known of a try, however it ends, is an `Attempt`.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from refine_ops.errors import ItemError
from refine_ops.job.inputs import InputRecord, identity_of
from refine_ops.records import Item, Outcome, RegionOutcome, Verification


@dataclass(frozen=True, slots=True)
class Output:
    """A file as it was written: its plain name, where it lies below the run folder, size in pixels, hash and size in
    bytes."""

    name: str
    object: str
    format: str
    width: int
    height: int
    sha256: str
    bytes: int


@dataclass(slots=True)
class Attempt:
    """One try of an item. `run` is the run's fingerprint, `start` the start it belongs to; `number` counts the tries of
    this start, from 1 (a rank that dies takes every try with it that it had in hand); `timings_s` are wall-clock
    seconds per step."""

    item: Item
    request: str
    run: str
    start: int = 0
    rank: int = 0
    number: int = 1
    inputs: InputRecord = field(default_factory=InputRecord)
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_time(step, time.perf_counter() - started)

    def add_time(self, step: str, seconds: float) -> None:
        self.timings_s[step] = self.timings_s.get(step, 0.0) + seconds


def done(
    attempt: Attempt,
    output: Output,
    regions: tuple[RegionOutcome, ...],
    verification: Verification,
    candidate: Output | None = None,
) -> Outcome:
    """The item is refined, and its output is durable; so is `candidate`, with what of it was held."""
    return Outcome(
        **(_common(attempt) | _written(output) | _kept(candidate)),
        status="done",
        regions=regions,
        verification=verification,
    )


def held(
    attempt: Attempt,
    regions: tuple[RegionOutcome, ...],
    message: str,
    candidate: Output | None = None,
    verification: Verification | None = None,
    source: Output | None = None,
) -> Outcome:
    """Nothing of the item was accepted. `verification` is of the durable `candidate`, `source` a copy of the source
    where one is asked for."""
    shown = source or candidate
    written = _written(shown) if shown else {}
    if source is None:
        written |= {"object": "", "output_sha256": "", "output_bytes": 0}
    reasons = [r.ruling.reason for r in regions if r.ruling is not None and not r.ruling.accepted]
    return Outcome(
        **(_common(attempt) | written | _kept(candidate)),
        status="held",
        reason=reasons[0],
        message=message,
        regions=regions,
        verification=verification,
    )


APPROVED: Final = "review.approved"
"""The reason of a ruling by which a person accepted what the judge had not."""


def approved(held: dict[str, Any], start: int) -> dict[str, Any]:
    """The ledger's row of a held item, as it is done once a person wants its candidate used: no model runs again."""
    regions = [region | {"ruling": {"accepted": True, "reason": APPROVED}} for region in held["regions"]]
    return held | {
        "status": "done",
        "reason": "",
        "message": "",
        "object": held["candidate"],
        "output_sha256": held["candidate_sha256"],
        "output_bytes": held["candidate_bytes"],
        "regions": regions,
        "start": start,
        "finished_at": time.time(),
    }


def dead(attempt: Attempt, error: ItemError) -> Outcome:
    """The item cannot be refined, for the error's reason."""
    return Outcome(**_common(attempt), status="dead", reason=error.reason, message=str(error))


def killed(item: Item, request: str, run: str, start: int, attempts: int, alone: int) -> Outcome:
    """The item ended its process `attempts` times, `alone` of them with nothing else in hand."""
    message = f"killed the worker {alone} times when run alone (crash, out of memory or hang); look at the file itself"
    return Outcome(
        item_id=item.item_id,
        fingerprint="",
        status="dead",
        request=request,
        identity=identity_of(item),
        category=item.category,
        reason="worker.killed",
        message=message,
        row=item.row,
        image=item.image,
        output=item.output,
        attempts=attempts,
        start=start,
        finished_at=time.time(),
        run_fingerprint=run,
    )


def refused(item_id: str, row: int, start: int, reason: str, message: str) -> Outcome:
    """A manifest row that never became an item. Its `request` is what is wrong with it: the same fault is recorded
    once, another one anew."""
    return Outcome(
        item_id=item_id,
        fingerprint="",
        status="dead",
        request=hashlib.blake2b(f"{item_id}\0{message}".encode(), digest_size=16).hexdigest(),
        reason=reason,
        message=message,
        row=row,
        start=start,
        finished_at=time.time(),
    )


def damaged(item_id: str, row: int, image: str, output: str, start: int, reason: str) -> Outcome:
    """A published output that is lost or altered. Its empty `request` equals no row's, so the next start redoes it."""
    return Outcome(
        item_id=item_id,
        fingerprint="",
        status="dead",
        reason=reason,
        message="the published file is not what was published; the next start refines the item again",
        row=row,
        image=image,
        output=output,
        start=start,
        finished_at=time.time(),
    )


def fingerprint_of(run: str, request: str, hashes: dict[str, str]) -> str:
    """Run fingerprint + request + hashes of all inputs: equal fingerprints give equal pixels."""
    text = json.dumps([run, request, sorted(hashes.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _written(output: Output) -> dict[str, Any]:
    return {
        "output": output.name,
        "object": output.object,
        "format": output.format,
        "width": output.width,
        "height": output.height,
        "output_sha256": output.sha256,
        "output_bytes": output.bytes,
    }


def _kept(candidate: Output | None) -> dict[str, Any]:
    if candidate is None:
        return {}
    return {
        "candidate": candidate.object,
        "candidate_sha256": candidate.sha256,
        "candidate_bytes": candidate.bytes,
    }


def _common(attempt: Attempt) -> dict[str, Any]:
    item, inputs = attempt.item, attempt.inputs
    return {
        "item_id": item.item_id,
        "fingerprint": fingerprint_of(attempt.run, attempt.request, inputs.hashes),
        "request": attempt.request,
        # where reading failed half-way, what the stores say now: a rerun sees whether that has changed
        "identity": inputs.identity or identity_of(item),
        "category": item.category,
        "row": item.row,
        "image": item.image,
        "output": item.output,
        "source_sha256": inputs.hashes.get(item.image, ""),
        "source_bytes": inputs.sizes.get(item.image, 0),
        "timings_s": {step: round(seconds, 6) for step, seconds in attempt.timings_s.items()},
        "attempts": attempt.number,
        "rank": attempt.rank,
        "start": attempt.start,
        "finished_at": time.time(),
        "run_fingerprint": attempt.run,
    }
