"""What a run leaves for people: `summary.md`, a contact sheet, dead letters; also shown where the engine can."""

import base64
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.progress import duration
from flows.steps.engine import Engine
from refine_ops import storage
from refine_ops.config import ImageLimits, RefineBatchConfig
from refine_ops.errors import ItemError
from refine_ops.image import read
from refine_ops.image.region import region_mask
from refine_ops.job.launch import NodeVerdict
from refine_ops.job.ledger import DEAD_LETTER, OUTCOME_SCHEMA, dead_letter, latest_in_parts, read_ledger
from refine_ops.job.planning.plan import Plan, PlanReader
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Mask, Region
from refine_ops.report.page.contact_sheet import SheetItem, contact_sheet

logger = logging.getLogger(__name__)

_SHOWN_ITEMS = 8
_LISTED_ITEMS = 100
_INERT = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: f"&#{ord(c)};" for c in "\"'|`[]()*_#!\\~"}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended. Counts are over the manifest's items with an outcome; those of `now` are this start's share;
    `left` is what its deadline left to the next one, `device_s` what this start took of all its devices."""

    run: str
    done: int
    dead: int
    refined_now: int
    skipped: int
    elapsed_s: float
    changed_outside_px: int
    dead_by_reason: dict[str, int]
    summary: str
    contact_sheet: str
    credentials_removed: int = 0
    signed: int = 0
    done_now: int = 0
    dead_now: int = 0
    left: int = 0
    held: int = 0
    held_now: int = 0
    held_by_reason: dict[str, int] = field(default_factory=dict)
    regions_held: int = 0
    device_s: float = 0.0

    @property
    def tried_now(self) -> int:
        return self.done_now + self.held_now + self.dead_now

    @property
    def dead_share(self) -> float:
        """Of what this start tried: old dead letters do not fail a night."""
        return self.dead_now / max(1, self.tried_now)

    @property
    def held_share(self) -> float:
        """Of what this start tried."""
        return self.held_now / max(1, self.tried_now)


def summarise(
    folder: RunFolder,
    config: RefineBatchConfig,
    plan: Plan,
    verdict: NodeVerdict | None,
    skipped: int,
    engine: Engine,
) -> RunSummary:
    """Derive the dead letter from the ledger, write the summary and the contact sheet, and show them.

    `verdict` is what this start refined, its canary among it; None where there was nothing to do.

    Only what the present manifest names counts: rows that were mended under another id, or taken out, are no longer
    dead, whatever the ledger remembers of them.
    """
    reader = PlanReader(plan.uri)
    planned = reader.columns(["item_id"])["item_id"].combine_chunks()
    named = pa.concat_arrays([planned, pa.array([p.item_id for p in plan.problems], pa.string())])
    tally = Tally(folder.start)
    for part in latest_in_parts(folder.outcomes, list(Tally.COLUMNS), named):
        tally.add(part)
    dead = tally.dead
    sink = pa.BufferOutputStream()
    pq.write_table(dead, sink)
    storage.write(folder.dead_letter, sink.getvalue().to_pybytes())
    sheet = contact_sheet(_sheet_items(folder, config, reader, tally.done))
    sheet_uri = storage.join(folder.uri, "report", "contact_sheet.png")
    storage.write(sheet_uri, sheet)
    summary = RunSummary(
        run=folder.uri,
        done=tally.counts["done"],
        dead=tally.counts["dead"],
        refined_now=verdict.counts.done if verdict else 0,
        skipped=skipped,
        elapsed_s=verdict.elapsed_s if verdict else 0.0,
        changed_outside_px=tally.proven["changed_outside_px"],
        dead_by_reason=dict(tally.reasons["dead"].most_common()),
        summary=storage.join(folder.uri, "report", "summary.md"),
        contact_sheet=sheet_uri,
        credentials_removed=tally.proven["credentials_removed"],
        signed=tally.proven["signed"],
        left=verdict.left if verdict else 0,
        done_now=tally.now["done"],
        dead_now=tally.now["dead"],
        held=tally.counts["held"],
        held_now=tally.now["held"],
        held_by_reason=dict(tally.reasons["held"].most_common()),
        device_s=tally.device_s,
        regions_held=tally.regions_held,
    )
    if summary.credentials_removed:
        logger.warning(
            "%d sources had Content Credentials (C2PA), which sign their own pixels: the refined files have none",
            summary.credentials_removed,
        )
    text = _markdown(summary, config, verdict, tally.held, dead)
    storage.write(summary.summary, text.encode())
    _show(text, sheet, tally.held, dead, engine)
    return summary


def device_seconds(outcomes: pa.Table, start: int) -> float:
    """What the model worked for these outcomes (column `timings_s`) in a start, on all devices together."""
    mine = outcomes.filter(pc.equal(outcomes["start"], start))["timings_s"].combine_chunks()
    return round(pc.sum(pc.map_lookup(mine, pa.scalar("refine"), "first")).as_py() or 0.0, 6)


class Tally:
    """What a summary says of a ledger, added up part by part: the ledger of a large catalogue fits into no memory."""

    COLUMNS: Final = (*DEAD_LETTER, "verification", "timings_s", "regions")
    _PROVEN: Final = ("changed_outside_px", "credentials_removed", "signed")
    _LISTED: Final = ("item_id", "row", "reason", "message", "image")

    def __init__(self, start: int) -> None:
        self._start = start
        self.counts, self.now, self.proven = Counter[str](), Counter[str](), Counter[str]()
        self.reasons: dict[str, Counter[str]] = {"held": Counter(), "dead": Counter()}
        self.device_s, self.regions_held = 0.0, 0
        nothing = OUTCOME_SCHEMA.empty_table()
        self._dead, self._done = [dead_letter(nothing)], [nothing.select(["item_id", "row"])]
        self.held = nothing.select(self._LISTED)
        """The first by their rows, as many as are listed."""

    def add(self, outcomes: pa.Table) -> None:
        """Outcomes of items that no part before had, with `COLUMNS`."""
        of = {name: outcomes.filter(pc.equal(outcomes["status"], name)) for name in ("done", "held", "dead")}
        for name, part in of.items():
            self.counts[name] += part.num_rows
            self.now[name] += int(pc.sum(pc.equal(part["start"], self._start)).as_py() or 0)
        for name, reasons in self.reasons.items():
            reasons.update(of[name]["reason"].to_pylist())
        self.device_s = round(self.device_s + device_seconds(outcomes, self._start), 6)
        if of["done"].num_rows:
            proofs = of["done"]["verification"].combine_chunks()
            self.proven.update({n: int(pc.sum(pc.struct_field(proofs, n)).as_py() or 0) for n in self._PROVEN})
            self.regions_held += _held_regions(of["done"]["regions"].combine_chunks())
        self._dead.append(dead_letter(of["dead"]))
        self._done.append(of["done"].select(["item_id", "row"]))
        held = pa.concat_tables([self.held, of["held"].select(self._LISTED)])
        self.held = held.sort_by("row").slice(0, _LISTED_ITEMS)

    @property
    def dead(self) -> pa.Table:
        """The dead letter, by row."""
        return pa.concat_tables(self._dead).sort_by("row")

    @property
    def done(self) -> pa.Table:
        """Item and row of all that is done, by row."""
        return pa.concat_tables(self._done).sort_by("row")


def _held_regions(regions: pa.ListArray) -> int:
    """Regions of refined items that were not accepted; those that nobody judged are."""
    rulings = pc.struct_field(pc.list_flatten(regions), "ruling")
    return int(pc.sum(pc.invert(pc.fill_null(pc.struct_field(rulings, "accepted"), True))).as_py() or 0)


def _sheet_items(folder: RunFolder, config: RefineBatchConfig, plan: PlanReader, done: pa.Table) -> Iterator[SheetItem]:
    """Some items spread over the run, with all their regions; what cannot be shown is left out."""
    step = max(1, done.num_rows // _SHOWN_ITEMS)
    chosen = done[::step].slice(0, _SHOWN_ITEMS)["item_id"].combine_chunks()
    shown = read_ledger(folder.outcomes, ["row", "image", "object"], items=chosen)
    ids = plan.columns(["item_id"])["item_id"].combine_chunks()
    limits = config.refine.limits
    for row in shown.sort_by("row").to_pylist():
        position = pc.index(ids, row["item_id"]).as_py()
        if position < 0:
            continue  # done by an earlier manifest; its row cannot be refined any more
        regions = plan.item(position)[0].regions
        try:
            before = read.decode(storage.read(row["image"], limits.max_bytes), name=row["image"], limits=limits)
            output = folder.uri_of(row["object"])
            after = read.decode(storage.read(output), name=output, limits=limits)
            yield SheetItem.of(row["item_id"], before.rgb, after.rgb, _masks(regions, before.size, limits))
        except ItemError:
            continue


def _masks(regions: Iterable[Region], size: tuple[int, int], limits: ImageLimits) -> Iterator[tuple[str, Mask]]:
    for region in regions:
        data = storage.read(region.mask, limits.max_bytes) if region.mask else None
        yield region.region_id, region_mask(region, size, data, limits)


def _markdown(
    summary: RunSummary, config: RefineBatchConfig, verdict: NodeVerdict | None, held: pa.Table, dead: pa.Table
) -> str:
    lines = [
        "# refine-batch",
        "",
        f"**{summary.done} of {summary.done + summary.held + summary.dead} items refined; "
        f"{summary.changed_outside_px} pixels changed outside the allowed change.**",
        "",
        "| | |",
        "| --- | --- |",
        f"| run folder | {_code(summary.run)} |",
        f"| manifest | {_code(config.manifest)} |",
        f"| model | {_code(config.refine.model.model)} |",
        f"| refined now, already done | {summary.refined_now}, {summary.skipped} |",
        f"| held: nothing of it was accepted, the source stands | {summary.held} |",
        f"| held in this start | {summary.held_now} ({summary.held_share:.1%}; budget {config.hold_budget:.1%}) |",
        f"| single regions held in refined items | {summary.regions_held} |",
        f"| dead | {summary.dead} |",
        f"| dead in this start | {summary.dead_now} ({summary.dead_share:.1%}; budget {config.error_budget:.1%}) |",
    ]
    if summary.left:
        lines += [f"| left at the deadline | {summary.left} |"]
    if summary.signed:
        lines += [f"| Content Credentials made | {summary.signed} |"]
    if summary.credentials_removed:
        lines += [f"| Content Credentials removed, as they sign the source's pixels | {summary.credentials_removed} |"]
    if verdict and verdict.counts.done:
        lines += [
            f"| took | {duration(verdict.elapsed_s)}, {verdict.counts.done / verdict.elapsed_s:.2f} items/s |",
            f"| model loaded, first image | {verdict.counts.load_s:.1f} s, {verdict.counts.first_image_s:.1f} s |",
            f"| launches, rank deaths | {verdict.launches}, {verdict.deaths} |",
        ]
    lines += _listed("Held", summary.held_by_reason, held) + _listed("Dead letters", summary.dead_by_reason, dead)
    lines += ["", f"Before and after: {_code(summary.contact_sheet)}"]
    return "\n".join(lines) + "\n"


def _listed(title: str, by_reason: dict[str, int], items: pa.Table) -> list[str]:
    if not items.num_rows:
        return []
    lines = ["", f"## {title}", "", "| reason | items |", "| --- | --- |"]
    lines += [f"| {_code(reason)} | {count} |" for reason, count in by_reason.items()]
    lines += ["", "| item | reason | message |", "| --- | --- | --- |"]
    rows = items.slice(0, _LISTED_ITEMS).to_pylist()
    return lines + [f"| {_code(r['item_id'])} | {_code(r['reason'])} | {_plain(r['message'])} |" for r in rows]


def _show(text: str, sheet: bytes, held: pa.Table, dead: pa.Table, engine: Engine) -> None:
    picture = io.BytesIO()
    from PIL import Image

    with Image.open(io.BytesIO(sheet)) as image:
        image.convert("RGB").save(picture, "JPEG", quality=80)
    data = base64.b64encode(picture.getvalue()).decode()
    engine.show("refine-summary", f"{text}\n![before and after](data:image/jpeg;base64,{data})\n")
    shown = ("item_id", "reason", "message", "image")
    for name, items in (("refine-held", held), ("refine-dead-letters", dead)):
        if items.num_rows:
            rows = items.slice(0, _LISTED_ITEMS).to_pylist()
            engine.show_table(name, [{k: _plain(str(r[k])) for k in shown} for r in rows])


def _plain(text: str) -> str:
    """Untrusted text for a Markdown table: no markup, no line breaks, no cell ends."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return "".join(_INERT.get(c, c) for c in flat)


def _code(text: str) -> str:
    return f"<code>{_plain(text)}</code>"
