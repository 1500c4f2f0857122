"""What is compared: an image before and after, from a run folder or from two folders."""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import PasteSettings, WriteSettings
from refine_ops.errors import ItemError
from refine_ops.job import published
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.job.starts import StartRecord, read_start, start_numbers
from refine_ops.proof.allowed import Rules
from refine_ops.records import Agreement, Alignment, Box, MadeBy, Region, Status

logger = logging.getLogger(__name__)

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class ReportedItem:
    """One image before and after. `crops`, `alignments`, `agreements` and `makers` are what the worker recorded, by
    region id. `patches` is where raw patches lie if they were kept; `held` says of regions that were not published why,
    and `candidate` is a picture that has them. `drift_from_output` says that raw drift is read off the output
    itself."""

    run: str
    item_id: str
    image: str
    output: str
    rules: Rules
    fingerprint: str = ""
    status: Status = "done"
    reason: str = ""
    message: str = ""
    regions: tuple[Region, ...] = ()
    crops: dict[str, Box] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    makers: dict[str, MadeBy] = field(default_factory=dict)
    patches: dict[str, str] = field(default_factory=dict)
    candidate: str = ""
    held: dict[str, str] = field(default_factory=dict)
    drift_from_output: bool = False
    source_sha256: str = ""
    output_sha256: str = ""
    attempts: int = 1
    gpu_s: float | None = None
    finished_at: float = 0.0
    start: int = 0
    slices: dict[str, str] = field(default_factory=dict)
    extra: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics computed elsewhere (LPIPS, text), by region id."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What of a start's settings decides how its items are judged: the rules, whether patches are kept, its slices."""

    rules: Rules
    kept: bool
    slices: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run, or its newest nights; iterate `items()` once per use."""

    uri: str
    folder: RunFolder
    record: dict[str, Any]
    nights: int | None = None

    def count(self) -> int:
        """How many items `items` will give at most."""
        return len(self._ledger(["finished_at"]))

    def items(self, only: Collection[str] | None = None) -> Iterator[ReportedItem]:
        """Items with an outcome, or `only` those with these ids, in manifest order; memory is bounded by the ledger's
        size.

        What the manifest no longer holds is left out: a done item with a warning, as there are no regions to judge it
        by; a dead one by the dead letter, which names those whose rows cannot be refined too.
        """
        ledger = self._ledger()
        if only is not None:
            ledger = ledger.filter(pc.is_in(ledger["item_id"], value_set=pa.array(sorted(only), pa.string())))
        ledger = ledger.take(pc.sort_indices(ledger, sort_keys=[("row", "ascending")]))
        plan = PlanReader(self.folder.plan)
        ids = plan.columns(["item_id"])["item_id"].combine_chunks()
        still_dead = self._dead_letter()
        settings = lru_cache(maxsize=None)(self._settings_of)
        for start in range(0, len(ledger), _BATCH):
            batch = ledger.slice(start, _BATCH)
            positions = np.asarray(pc.fill_null(pc.index_in(batch["item_id"], value_set=ids), -1))
            for row, position in zip(batch.to_pylist(), positions, strict=True):
                if position < 0 and row["status"] == "done":
                    logger.warning("%s: item %r is not in the plan any more and is left out", self.uri, row["item_id"])
                    continue
                if position < 0 and still_dead is not None and row["item_id"] not in still_dead:
                    continue
                item = plan.item(int(position))[0] if position >= 0 else None
                category = row["category"] if item is None else item.category
                yield self._item({**row, "category": category}, item.regions if item else (), settings(row["start"]))

    def _ledger(self, columns: list[str] | None = None) -> pa.Table:
        ledger = read_ledger(self.folder.outcomes, columns)
        if self.nights is None or not len(ledger):
            return ledger
        newest = sorted(pc.unique(ledger["start"]).to_pylist())[-self.nights :]
        return ledger.filter(pc.is_in(ledger["start"], value_set=pa.array(newest)))

    def failed_last(self) -> StartRecord | None:
        """The newest start that was to refine, if it ended without publishing: what is reported are earlier ones."""
        for number in reversed(start_numbers(self.uri)):
            record = read_start(self.uri, number)
            if "parts" in record.what:
                return record if record.exit not in (None, "done", "deadline") else None
        return None

    def _dead_letter(self) -> frozenset[str] | None:
        """Ids in the dead letter; None for a run that has not come to an end yet."""
        if not storage.exists(self.folder.dead_letter):
            return None
        table = pq.read_table(pa.BufferReader(storage.read(self.folder.dead_letter)), columns=["item_id"])
        return frozenset(table["item_id"].to_pylist())

    def planned(self) -> int:
        """How many items the run was to do."""
        return len(PlanReader(self.folder.plan))

    def published(self) -> int | None:
        """How many of the items are in the newest published set, as they are here; None before the first one."""
        snapshot = published.newest(self.uri)
        if snapshot is None:
            return None
        ledger = self._ledger(["status", "object"])
        objects = ledger.filter(pc.equal(ledger["status"], "done"))["object"]
        return int(pc.sum(pc.is_in(objects, value_set=snapshot.table["object"].combine_chunks())).as_py() or 0)

    def promises(self) -> dict[str, dict[str, Any]] | None:
        """What the gates of the newest start promise, by who makes the regions; empty where no calibrated gate ruled,
        None where the record does not say."""
        numbers = start_numbers(self.uri)
        return read_start(self.uri, max(numbers)).what.get("promises") if numbers else None

    def _item(self, row: dict[str, Any], regions: tuple[Region, ...], settings: _Settings) -> ReportedItem:
        outcomes = row["regions"] or []
        timings = dict(row["timings_s"] or [])
        return ReportedItem(
            run=self.uri,
            item_id=row["item_id"],
            image=row["image"],
            output=self._output(row["object"]),
            rules=settings.rules,
            fingerprint=row["fingerprint"],
            status=row["status"],
            reason=row["reason"],
            message=row["message"],
            regions=regions,
            crops={r["region_id"]: tuple(r["crop"]) for r in outcomes},
            alignments={r["region_id"]: _alignment(r["alignment"]) for r in outcomes},
            agreements={r["region_id"]: Agreement(**r["agreement"]) for r in outcomes if r["agreement"]},
            makers={r["region_id"]: r["made_by"] for r in outcomes},
            patches={
                r["region_id"]: self.folder.patch_of(row["object"], r["region_id"]) for r in outcomes if settings.kept
            },
            candidate=self._output(row["candidate"]),
            held={
                r["region_id"]: r["ruling"]["reason"] for r in outcomes if r["ruling"] and not r["ruling"]["accepted"]
            },
            source_sha256=row["source_sha256"],
            output_sha256=row["output_sha256"],
            attempts=row["attempts"],
            gpu_s=timings.get("refine"),
            finished_at=row["finished_at"],
            start=row["start"],
            slices={
                **settings.slices,
                "category": row["category"] or "none",
                "source": storage.folder_of(row["image"]),
                "made by": "+".join(sorted({r["made_by"] for r in outcomes})) or "none",
            },
        )

    def _output(self, at: str) -> str:
        """Outcomes are data: an output that leads out of the run folder is not followed."""
        try:
            return self.folder.uri_of(at) if at else ""
        except ItemError:
            return ""

    def _settings_of(self, start: int) -> _Settings:
        """Of one start: what was refined under other settings is judged by those. Older records are the folder's."""
        record = read_start(self.uri, start).what if start in start_numbers(self.uri) else {}
        config = record.get("config") or self.record.get("config", {})
        refine = config.get("refine", {})
        model = refine.get("model", {})
        paste = PasteSettings.model_validate(refine.get("paste", {}))
        write = WriteSettings.model_validate(refine.get("write", {}))
        return _Settings(
            rules=Rules.of(paste, write),
            kept=config.get("keep_patches", "none") != "none",
            slices={
                "preset": str(model.get("model", "unknown")),
                "adapter": "+".join(model.get("adapters", ())) or "none",
            },
        )


def open_run(uri: str, nights: int | None = None) -> ReportedRun:
    """The run at `uri`, or its newest `nights`. Raises: JobError -- there is none."""
    folder, record = reopen_run(uri)
    return ReportedRun(folder.uri, folder, record, nights)


def _alignment(row: dict[str, Any]) -> Alignment:
    return Alignment(**{**row, "gain": tuple(row["gain"]), "offset": tuple(row["offset"])})
