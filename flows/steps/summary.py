"""What a run leaves for people: `summary.md`, a contact sheet, dead letters; also shown where the engine can."""

import base64
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
from refine_ops.job.ledger import dead_letter, read_ledger
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
    ledger = read_ledger(folder.outcomes)
    reader = PlanReader(plan.uri)
    planned = reader.columns(["item_id"])["item_id"].combine_chunks()
    named = pa.concat_arrays([planned, pa.array([p.item_id for p in plan.problems], pa.string())])
    ledger = ledger.filter(pc.is_in(ledger["item_id"], value_set=named))
    dead = dead_letter(ledger)
    sink = pa.BufferOutputStream()
    pq.write_table(dead, sink)
    storage.write(folder.dead_letter, sink.getvalue().to_pybytes())
    done = ledger.filter(pc.equal(ledger["status"], "done"))
    held = ledger.filter(pc.equal(ledger["status"], "held")).sort_by("row")
    sheet = contact_sheet(_sheet_items(folder, config, reader, done))
    sheet_uri = storage.join(folder.uri, "report", "contact_sheet.png")
    storage.write(sheet_uri, sheet)
    summary = RunSummary(
        run=folder.uri,
        done=done.num_rows,
        dead=dead.num_rows,
        refined_now=verdict.counts.done if verdict else 0,
        skipped=skipped,
        elapsed_s=verdict.elapsed_s if verdict else 0.0,
        changed_outside_px=_proven(done, "changed_outside_px"),
        dead_by_reason=dict(Counter(dead["reason"].to_pylist()).most_common()),
        summary=storage.join(folder.uri, "report", "summary.md"),
        contact_sheet=sheet_uri,
        credentials_removed=_proven(done, "credentials_removed"),
        signed=_proven(done, "signed"),
        left=verdict.left if verdict else 0,
        done_now=_of_start(done, folder.start),
        dead_now=_of_start(ledger.filter(pc.equal(ledger["status"], "dead")), folder.start),
        held=held.num_rows,
        held_now=_of_start(held, folder.start),
        held_by_reason=dict(Counter(held["reason"].to_pylist()).most_common()),
        device_s=device_seconds(ledger, folder.start),
        regions_held=sum(not _accepted(r) for row in done["regions"].to_pylist() for r in row),
    )
    if summary.credentials_removed:
        logger.warning(
            "%d sources had Content Credentials (C2PA), which sign their own pixels: the refined files have none",
            summary.credentials_removed,
        )
    text = _markdown(summary, config, verdict, held, dead)
    storage.write(summary.summary, text.encode())
    _show(text, sheet, held, dead, engine)
    return summary


def device_seconds(outcomes: pa.Table, start: int) -> float:
    """What the model worked for these outcomes (column `timings_s`) in a start, on all devices together."""
    mine = outcomes.filter(pc.equal(outcomes["start"], start))["timings_s"].combine_chunks()
    return round(pc.sum(pc.map_lookup(mine, pa.scalar("refine"), "first")).as_py() or 0.0, 6)


def _proven(done: pa.Table, field: str) -> int:
    """The sum over all items of what their proofs counted."""
    if not done.num_rows:
        return 0
    return int(pc.sum(pc.struct_field(done["verification"].combine_chunks(), field)).as_py() or 0)


def _accepted(region: dict[str, Any]) -> bool:
    return region["ruling"] is None or bool(region["ruling"]["accepted"])


def _of_start(outcomes: pa.Table, start: int) -> int:
    return int(pc.sum(pc.equal(outcomes["start"], start)).as_py() or 0)


def _sheet_items(folder: RunFolder, config: RefineBatchConfig, plan: PlanReader, done: pa.Table) -> Iterator[SheetItem]:
    """Some items spread over the run, with all their regions; what cannot be shown is left out."""
    step = max(1, done.num_rows // _SHOWN_ITEMS)
    ids = plan.columns(["item_id"])["item_id"].combine_chunks()
    limits = config.refine.limits
    for row in done.sort_by("row")[::step][:_SHOWN_ITEMS].to_pylist() if done.num_rows else []:
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
