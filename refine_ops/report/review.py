"""Review decisions: what a person approved or rejected, kept beside the run; nothing of the run is overwritten.

    review/marks-00000042-0003.json   what was decided after start 42 had begun, and after two others

Their order is that of starts and within one that of arrival, no clock's: two people's machines need not agree on it.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from refine_ops import storage
from refine_ops.config import Settings
from refine_ops.errors import ItemError, JobError
from refine_ops.job import outcome
from refine_ops.job.ledger import OUTCOME_SCHEMA, read_ledger, write_part
from refine_ops.job.planning.plan import Review
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.job.starts import start_numbers

SCHEMA = "refine-ops/decisions/1"
_MAX_BYTES = 256 << 20
_NAME = re.compile(r"marks-(\d{8})-(\d{4,})\.json")

Action = Literal["redo", "exclude"]


class Decision(Settings):
    """One line of `decisions.json`. `decision` is empty for a note alone."""

    run: str
    item_id: str
    fingerprint: str
    decision: Literal["approve", "reject", ""]
    note: str = Field("", max_length=500)
    at: str = ""


class Decisions(Settings):
    """`decisions.json` as the report exports it."""

    schema_: Literal["refine-ops/decisions/1"] = Field(alias="schema")
    report: str
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class ReviewMark:
    """What is done with an item's present output: keep it, redo it, leave the item out; or, of a held item, publish
    what is kept of it.

    A mark holds for the output with this `fingerprint` only; once the item is redone it is spent. `was` says what was
    looked at: an output, or what was held.
    """

    item_id: str
    fingerprint: str
    action: Literal["keep", "redo", "exclude", "publish"]
    note: str
    at: str
    was: Literal["done", "held"] = "done"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Of how many outputs a person decided, and how many of those were rejected; each output counts once."""

    outputs: int = 0
    rejected: int = 0

    def __add__(self, other: "Reviewed") -> "Reviewed":
        return Reviewed(self.outputs + other.outputs, self.rejected + other.rejected)


def read_decisions(uri: str) -> Decisions:
    """Raises: JobError -- the file is absent, too large, or not what the report exports."""
    try:
        return Decisions.model_validate_json(storage.read(storage.resolve(uri), _MAX_BYTES))
    except (ItemError, ValidationError) as e:
        first = e.errors()[0] if isinstance(e, ValidationError) else None
        said = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}" if first else e
        raise JobError(f"{uri} is not a decisions.json exported from a drift report: {said}") from e


def apply_decisions(run: str, decisions: Decisions, rejected: Action = "redo") -> list[ReviewMark]:
    """Add the decisions about `run` to its `review/` folder as one new object; returns the marks.

    Raises:
        JobError: a decision names an item that this run does not have, or an output that has been replaced since the
            report was made; nothing is written then.
    """
    folder, _ = reopen_run(run)
    marks = []
    ledger = read_ledger(folder.outcomes, ["fingerprint", "status"]).select(["item_id", "fingerprint", "status"])
    present = {row["item_id"]: row["fingerprint"] for row in ledger.to_pylist()}
    held = set(ledger.filter(pc.equal(ledger["status"], "held"))["item_id"].to_pylist())
    stale = []
    for d in decisions.decisions:
        if storage.resolve(d.run) != folder.uri:
            continue
        if present.get(d.item_id) != d.fingerprint:
            stale.append(d.item_id)
        approved: Literal["keep", "publish"] = "publish" if d.decision and d.item_id in held else "keep"
        action = rejected if d.decision == "reject" else approved
        was: Literal["done", "held"] = "held" if d.item_id in held else "done"
        marks.append(ReviewMark(d.item_id, d.fingerprint, action, d.note, d.at, was))
    if stale:
        raise JobError(
            f"{len(stale)} decision(s) are about outputs {folder.uri} does not have (any more), first {stale[0]!r}; "
            "make a new report of the run and review that"
        )
    if not marks:
        raise JobError(f"no decision is about {folder.uri}; the report was made of other runs")
    _add(folder.uri, marks)
    return marks


def read_marks(run: str) -> dict[str, ReviewMark]:
    """All marks of a run by item id; of several about one item the one applied last holds."""
    return {mark.item_id: mark for mark in _all_marks(run)}


def count_reviewed(run: str) -> Reviewed:
    """What people said of a run's outputs so far, those included that were redone since; held ones do not count."""
    last: dict[tuple[str, str], bool] = {}
    for uri in storage.list_files(storage.join(storage.resolve(run), "review"), ".json"):
        for row in json.loads(storage.read(uri))["marks"]:
            if row.get("was", "done") == "done":
                last[row["item_id"], row["fingerprint"]] = row["action"] in ("redo", "exclude")
    return Reviewed(len(last), sum(last.values()))


def read_review(run: str) -> Review:
    """What the marks of a run say to its next start: items to leave out, and a salt for each one to redo.

    The salt is made of every fingerprint that was ever rejected, so that a later approval of the new result does not
    bring the old one back.
    """
    rejected: dict[str, list[str]] = {}
    last: dict[str, ReviewMark] = {}
    for mark in _all_marks(run):
        last[mark.item_id] = mark
        if mark.action == "redo":
            rejected.setdefault(mark.item_id, []).append(mark.fingerprint)
    excluded = frozenset(item for item, mark in last.items() if mark.action == "exclude")
    return Review(excluded, {item: "+".join(fingerprints) for item, fingerprints in rejected.items()})


def approve_held(folder: RunFolder) -> int:
    """Make done what is held and a person approved, in the name of the folder's start; returns how many.

    Whatever start comes next does it, so that an approval holds that was given while another one was at work.

    Raises:
        JobError: the ledger cannot be read or written.
    """
    wanted = {item: mark.fingerprint for item, mark in read_marks(folder.uri).items() if mark.action == "publish"}
    if not wanted:
        return 0
    ledger = read_ledger(folder.outcomes)
    waiting = pc.and_(pc.equal(ledger["status"], "held"), pc.not_equal(ledger["candidate"], ""))
    ids = pc.is_in(ledger["item_id"], value_set=pa.array(list(wanted), pa.string()))
    rows = [r for r in ledger.filter(pc.and_(waiting, ids)).to_pylist() if r["fingerprint"] == wanted[r["item_id"]]]
    if rows:
        table = pa.Table.from_pylist([outcome.approved(row, folder.start) for row in rows], schema=OUTCOME_SCHEMA)
        write_part(folder.outcomes, table, "review")
    return len(rows)


def _add(run: str, marks: Sequence[ReviewMark]) -> None:
    body: dict[str, Any] = {"schema": "refine-ops/marks/1", "marks": [asdict(m) for m in marks]}
    data = json.dumps(body, ensure_ascii=False, indent=1).encode()
    start = max(start_numbers(run), default=0)
    there = [number for of, number in map(_order, _mark_files(run)) if of == start]
    for number in itertools.count(max(there, default=0) + 1):
        try:
            storage.write(
                storage.join(run, "review", f"marks-{start:08d}-{number:04d}.json"), data, only_if_absent=True
            )
            return
        except ItemError:  # another reviewer was quicker: this one decides after that one
            continue


def _all_marks(run: str) -> Iterator[ReviewMark]:
    """In the order in which they were applied."""
    for uri in _mark_files(storage.resolve(run)):
        yield from (ReviewMark(**row) for row in json.loads(storage.read(uri))["marks"])


def _mark_files(run: str) -> list[str]:
    return sorted(storage.list_files(storage.join(run, "review"), ".json"), key=lambda uri: (_order(uri), uri))


def _order(uri: str) -> tuple[int, int]:
    """Start and number; what an earlier release named after the time comes before both."""
    named = _NAME.fullmatch(uri.rsplit("/", 1)[-1])
    return (int(named[1]), int(named[2])) if named else (-1, 0)
