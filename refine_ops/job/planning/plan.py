"""The plan: the validated manifest as `plan.parquet`, one row group per shard.

The plan reads the manifest only, never an image. It is made anew at every start; the ledger says what is done.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.job import outcome
from refine_ops.job.planning.manifest import SCHEMA, read_items
from refine_ops.job.planning.rows import RowProblem
from refine_ops.progress import OnProgress, no_progress
from refine_ops.records import Item, Outcome, Region, Scribble

PLAN_SCHEMA: Final = pa.schema(
    [
        *SCHEMA,
        ("salt", pa.string()),
        ("row", pa.int64()),
        ("request", pa.string()),
        ("shard", pa.int32()),
        ("region_count", pa.int32()),
    ]
)
_SHOWN_PROBLEMS = 20
_PROGRESS_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Review:
    """What people decided about earlier results, by item id: not to be refined at all, or once more, otherwise."""

    excluded: frozenset[str] = frozenset()
    salts: Mapping[str, str] = field(default_factory=dict)


NO_REVIEW: Final = Review()


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done: counts, and the rows that cannot be. `uri` is the written `plan.parquet`, or empty;
    `manifest_sha256` is of the manifest's own bytes."""

    uri: str
    items: int
    regions: int
    shards: int
    problems: tuple[RowProblem, ...]
    manifest_sha256: str = ""


def request_of(item: Item) -> str:
    """Hash of everything the manifest row asks for; equal requests on equal inputs give equal outputs. How a row is
    sorted (`category`) is not asked for."""
    # "" is where earlier releases had the category: rows without one keep their hash.
    asked = [item.image, item.output, "", item.salt, [_region_row(region) for region in item.regions]]
    return hashlib.blake2b(json.dumps(asked, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def make_plan(
    manifest: str,
    out: str | None,
    *,
    access: AccessSettings,
    limit: int | None = None,
    shard_items: int = 1024,
    review: Review = NO_REVIEW,
    any_suffix: bool = False,
    allow_empty: bool = False,
    on_progress: OnProgress = no_progress,
    before_writing: Callable[[Plan], object] = lambda _: None,
) -> Plan:
    """Validate the manifest and, with `out`, write `<out>/plan.parquet`.

    `before_writing` is called once the manifest is accepted: where another start is at work, it raises, and that one's
    plan stays.

    Rows that cannot be refined are returned as `problems` and left out of the plan. Shards hold at most `shard_items`
    items and four times as many regions. Items that a review excludes are left out; rejected ones get a salt. With
    `any_suffix` (the run may write another format) outputs must differ in more than their suffix.

    Raises:
        JobError: the manifest cannot be read, is empty (unless `allow_empty`), or is refused as a whole (duplicate ids,
            two items writing one output, an output outside the run folder, an unknown column or scheme); nothing is
            written then.
    """
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "plan.parquet")
        plan = scan_manifest(
            manifest,
            local,
            access=access,
            limit=limit,
            shard_items=shard_items,
            review=review,
            any_suffix=any_suffix,
            allow_empty=allow_empty,
            on_progress=on_progress,
        )
        refuse(manifest, plan.problems)
        if out is None:
            return replace(plan, uri="")
        before_writing(plan)
        with open(local, "rb") as f:
            storage.write(storage.join(out, "plan.parquet"), f.read())
    return replace(plan, uri=storage.join(out, "plan.parquet"))


def scan_manifest(
    manifest: str,
    local: str,
    *,
    access: AccessSettings,
    limit: int | None = None,
    shard_items: int = 1024,
    review: Review = NO_REVIEW,
    any_suffix: bool = False,
    allow_empty: bool = False,
    on_progress: OnProgress = no_progress,
) -> Plan:
    """Read the whole manifest into a plan at the local path `local`, with every problem of every row, fatal or not.

    Raises:
        JobError: the manifest cannot be read, or has not one row (unless `allow_empty`): an export that went wrong must
            not pass for a night's work.
    """
    problems: list[RowProblem] = []
    hashes: list[str] = []
    count = 0
    with pq.ParquetWriter(local, PLAN_SCHEMA, compression="zstd") as writer:
        sharder = _Sharder(writer, shard_items)
        for count, parsed in enumerate(read_items(manifest, access, limit, hashes.append), start=1):
            if count % _PROGRESS_ROWS == 0:
                on_progress(count, None)
            if isinstance(parsed, RowProblem):
                problems.append(parsed)
            elif parsed.item_id not in review.excluded:
                salt = review.salts.get(parsed.item_id, "")
                sharder.add(replace(parsed, salt=salt) if salt else parsed)
        sharder.close()
    if not count and not allow_empty:
        raise JobError(f"manifest {manifest}: no rows; set allow_empty=true where that may be")
    problems += _duplicates(local, any_suffix)
    return Plan(local, sharder.items, sharder.regions, sharder.shards, tuple(problems), hashes[0])


def refuse(manifest: str, problems: Sequence[RowProblem]) -> None:
    """Raise `JobError` if any problem is fatal for the manifest as a whole, naming the first ones."""
    fatal = [p for p in problems if p.fatal]
    if fatal:
        shown = "\n".join(f"  row {p.row} ({p.item_id!r}): {p.message}" for p in fatal[:_SHOWN_PROBLEMS])
        raise JobError(f"manifest {manifest} is refused, nothing was run; {len(fatal)} row(s):\n{shown}")


def problem_outcomes(problems: Sequence[RowProblem], known: pa.Table, start: int) -> list[Outcome]:
    """Dead outcomes of rows that cannot be refined, without those the ledger (column `request`) already has."""
    seen = set(known["request"].to_pylist()) if problems else set()
    found = (outcome.refused(p.item_id, p.row, start, p.reason, p.message) for p in problems)
    return [dead for dead in found if dead.request not in seen]


class _Sharder:
    """Gathers items into row groups of bounded cost."""

    def __init__(self, writer: pq.ParquetWriter, shard_items: int) -> None:
        self._writer, self._shard_items = writer, shard_items
        self._rows: list[dict[str, Any]] = []
        self._waiting_regions = 0
        self.items = self.regions = self.shards = 0

    def add(self, item: Item) -> None:
        if len(self._rows) >= self._shard_items or self._waiting_regions >= 4 * self._shard_items:
            self._flush()
        self._rows.append(_plan_row(item, self.shards))
        self._waiting_regions += len(item.regions)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=PLAN_SCHEMA))
        self.items += len(self._rows)
        self.regions += self._waiting_regions
        self.shards += 1
        self._rows, self._waiting_regions = [], 0

    def close(self) -> None:
        if self._rows:
            self._flush()


def _plan_row(item: Item, shard: int) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "image": item.image,
        "output": item.output,
        "category": item.category,
        "salt": item.salt,
        "regions": [_region_row(region) for region in item.regions],
        "row": item.row,
        "request": request_of(item),
        "shard": shard,
        "region_count": len(item.regions),
    }


def _region_row(region: Region) -> dict[str, Any]:
    scribble = region.scribble
    return {
        "region_id": region.region_id,
        "prompt": region.prompt,
        "box": region.box,
        "mask": region.mask,
        "scribble": scribble and {"strokes": scribble.strokes, "width": scribble.width_px},
        "reference": region.reference,
        "seed": region.seed,
        "paste": region.paste,
        **_mask_reading(region),
        **({"references": list(region.references)} if region.references else {}),
    }


def _mask_reading(region: Region) -> dict[str, Any]:
    """Only what is set: requests made before these fields existed keep their hash."""
    read = {"mask_level": region.mask_level, "mask_class": region.mask_class, "mask_invert": region.mask_invert or None}
    return {name: value for name, value in read.items() if value is not None}


def _read_as(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("mask_level", "mask_class", "mask_invert") if row.get(name) is not None}


def _item_of(row: dict[str, Any]) -> Item:
    regions = []
    for r in row["regions"]:
        box, scribble = r["box"], r["scribble"]
        strokes = scribble and tuple(tuple((x, y) for x, y in stroke) for stroke in scribble["strokes"])
        shapes = {
            "box": box and tuple(box),
            "mask": r["mask"],
            "scribble": scribble and Scribble(strokes, scribble["width"]),
        }
        regions.append(
            Region(
                r["region_id"],
                r["prompt"],
                **shapes,
                **{k: r[k] for k in ("reference", "seed", "paste")},
                **_read_as(r),
                references=tuple(r.get("references") or ()),
            )
        )
    return Item(row["item_id"], row["image"], row["output"], tuple(regions), row["row"], row["category"], row["salt"])


def _duplicates(plan: str, any_suffix: bool) -> list[RowProblem]:
    """Ids and outputs that occur twice, and outputs that are a folder of another one."""
    table = pq.read_table(plan, columns=["item_id", "output", "row"])
    outputs = pc.replace_substring_regex(table["output"], r"\.[^./]*$", "") if any_suffix else table["output"]
    suffix = " without suffix (the run may write another format)" if any_suffix else ""
    found = []
    for values, reason, what in (
        (table["item_id"], "item_id.duplicate", "item_id"),
        (outputs, "output.duplicate", f"output{suffix}"),
    ):
        counts = pc.value_counts(values)
        for entry in counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1)).to_pylist():
            rows = table.filter(pc.equal(values, entry["values"])).to_pylist()
            message = f"{entry['values']!r} is the {what} of rows {[r['row'] for r in rows][:5]}; it must be unique"
            found.append(RowProblem(rows[1]["row"], rows[1]["item_id"], reason, message))
            if len(found) >= _SHOWN_PROBLEMS:
                return found
    parents = {p.rsplit("/", n)[0] for p in table["output"].to_pylist() for n in range(1, p.count("/") + 1)}
    for entry in table.filter(pc.is_in(table["output"], pa.array(sorted(parents), pa.string()))).to_pylist():
        message = f"output {entry['output']!r} is also the folder of another item's output"
        found.append(RowProblem(entry["row"], entry["item_id"], "output.duplicate", message))
    return found


class PlanReader:
    """Items of a written plan by position, a row group at a time."""

    def __init__(self, uri: str) -> None:
        try:
            self._file = pq.ParquetFile(pa.BufferReader(storage.read(uri)) if storage.is_s3(uri) else uri)
        except (pa.ArrowException, OSError, ItemError) as e:
            raise JobError(f"{uri} is not a readable plan ({e}); start the run again, it is made anew") from e
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._rows = lru_cache(maxsize=4)(lambda group: self._file.read_row_group(group).to_pylist())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def item(self, position: int) -> tuple[Item, str]:
        """The item at `position` in the plan, and its request hash. Not thread-safe."""
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        row = self._rows(group)[position - int(self._starts[group])]
        return _item_of(row), row["request"]

    def columns(self, names: list[str]) -> pa.Table:
        return self._file.read(columns=names)
