"""`refine-ops check`: what could not be refined and why, and what each region marks, before anything runs."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from flows.cli.options import SAMPLE
from flows.progress import ProgressDisplay
from refine_ops.config import RefineBatchConfig, WorkerSettings
from refine_ops.errors import ItemError
from refine_ops.image import focus, place
from refine_ops.job.inputs import read_inputs
from refine_ops.job.planning.plan import Plan, PlanReader, scan_manifest
from refine_ops.job.planning.rows import RowProblem
from refine_ops.job.rank.byte_budget import ByteBudget
from refine_ops.model.presets import apply_overrides, resolve_preset
from refine_ops.opened import Opened, memory_needed, open_item
from refine_ops.provenance.rehearsal import check_signer
from refine_ops.records import Item, Region
from refine_ops.report.page.marked_sheet import MarkedCell, marked_cell, marked_sheet

_THREADS = 8
_CHUNK = 64
_LISTED: Final = 20
_ON_SHEET: Final = 48
_MOST: Final = 0.5
_MANY_TILES: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class MarkedRegion:
    """What one region marks: pixels, their share of the picture, how large the model sees them (1 is their own size) in
    how many tiles, what a person should look at. `cell` is set where it goes on the sheet."""

    row: int
    label: str
    shape: str
    marked_px: int
    share: float
    zoom: float
    tiles: int
    notes: tuple[str, ...]
    cell: MarkedCell | None = None

    def __str__(self) -> str:
        noted = f"  NOTE: {'; '.join(self.notes)}" if self.notes else ""
        figures = f"{self.marked_px:>12,} px{self.share:>8.1%}   seen at {_seen(self.zoom, self.tiles)}"
        return f"  row {self.row}  {self.label}  {self.shape}{figures}{noted}"


@dataclass(slots=True)
class Checked:
    """The plan, all problems by row, and the marks of what was opened: those to look at first, then some others."""

    plan: Plan
    problems: list[RowProblem]
    tried: int = 0
    opened: int = 0
    marks: list[MarkedRegion] = field(default_factory=list)
    noted: int = 0
    regions: int = 0
    tiles: int = 0

    def add(self, marks: Sequence[MarkedRegion]) -> None:
        """Count the marks, and keep some: memory is bounded however many there are."""
        self.opened += 1
        for mark in marks:
            self.regions += 1
            self.tiles += mark.tiles
            self.noted += bool(mark.notes)
            kept_alike = sum(bool(m.notes) == bool(mark.notes) for m in self.marks)
            if mark.cell is not None or kept_alike < _LISTED:
                self.marks.append(mark)

    def describe(self) -> str:
        """What the regions mark, for people, and how much was opened; empty where nothing was."""
        return "\n".join(filter(None, [self._of_marks(), self._of_sample()]))

    def _of_sample(self) -> str:
        """What the reader must know where not everything was opened."""
        if not 0 < self.tried < self.plan.items:
            return ""
        return f"{self.tried:,} of {self.plan.items:,} pictures were opened, spread evenly; --sample 0 opens all"

    def _of_marks(self) -> str:
        if not self.regions:
            return ""
        first = sorted(self.marks, key=lambda mark: (not mark.notes, mark.row))[:_LISTED]
        more = f"  ... {self.regions - len(first):,} more" if self.regions > len(first) else ""
        head = f"{self.regions:,} regions of {self.opened:,} pictures opened; {self.noted:,} to look at:"
        return "\n".join([head, *map(str, first), *([more] if more else [])])

    def sheet(self) -> bytes:
        """PNG: the marked pixels of some regions, spread over the manifest, drawn over their pictures."""
        return marked_sheet([mark.cell for mark in self.marks if mark.cell is not None][:_ON_SHEET])


def check_manifest(
    config: RefineBatchConfig, *, open_files: bool, sheet: bool = False, sample: int = SAMPLE
) -> Checked:
    """Read every row; with `open_files` decode images, masks and references too.

    Args:
        sample: Items that are opened at most, spread evenly; 0: all.

    Raises:
        JobError: the manifest cannot be read, the model has no preset, or nobody can sign what is to be signed.
    """
    resolve_preset(config.refine.model)  # before anything is read
    check_signer(config.refine.provenance)
    with tempfile.TemporaryDirectory() as scratch:
        local = str(Path(scratch) / "plan.parquet")
        plan = scan_manifest(
            config.manifest,
            local,
            access=config.access,
            limit=config.limit,
            shard_items=config.shard_items,
            any_suffix=config.refine.write.changes_suffixes,
            allow_empty=config.allow_empty,
            on_progress=ProgressDisplay("plan").update,
        )
        checked = Checked(plan, list(plan.problems))
        if open_files:
            open_sample(checked, PlanReader(local), config, sample, sheet=sheet)
    checked.problems.sort(key=lambda p: p.row)
    return checked


def open_sample(
    checked: Checked, plan: PlanReader, config: RefineBatchConfig, sample: int, *, sheet: bool = False
) -> None:
    """Decode what at most `sample` items name, spread evenly, or all (0), into `checked`."""
    opener, ticker = _Opener(config), ProgressDisplay("check")
    positions = _spread(len(plan), sample or len(plan))
    drawn = set(_spread(len(positions), _ON_SHEET)) if sheet else set()
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(positions), _CHUNK):
            chunk = [
                (plan.item(position)[0], index in drawn)
                for index, position in enumerate(positions[start : start + _CHUNK], start)
            ]
            for done, found in enumerate(pool.map(lambda work: opener.open(*work), chunk), start + 1):
                ticker.update(done, len(positions))
                checked.tried += 1
                if isinstance(found, RowProblem):
                    checked.problems.append(found)
                else:
                    checked.add(found)


def _spread(count: int, at_most: int) -> list[int]:
    """At most so many of `count` positions, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(int)).tolist() if count else []


class _Opener:
    """Opens items as a worker does, within its budget of bytes."""

    def __init__(self, config: RefineBatchConfig) -> None:
        self._access, self._settings = config.access, config.refine
        self._preset = apply_overrides(resolve_preset(config.refine.model), config.refine.model)
        self._budget = ByteBudget(WorkerSettings().queue_bytes)

    def open(self, item: Item, draw: bool) -> list[MarkedRegion] | RowProblem:
        held = 0
        try:
            inputs = read_inputs(item, self._access, self._settings.limits.max_bytes)
            size = memory_needed(item, inputs, self._settings.limits)
            self._budget.acquire(size)
            held = size
            return list(self._marks(item, open_item(item, inputs, self._settings), draw))
        except ItemError as e:
            return RowProblem(item.row, item.item_id, e.reason, str(e))
        finally:
            self._budget.release(held)

    def _marks(self, item: Item, opened: Opened, draw: bool) -> Iterator[MarkedRegion]:
        preset, settings = self._preset, self._settings
        for region, marking in zip(item.regions, opened.markings, strict=True):
            found = place.find(
                marking,
                settings.focus,
                settings.paste,
                grid_px=preset.grid_px,
                focus_pixels=preset.focus_pixels,
                tile_zoom=settings.focus.least_zoom(preset.tile_zoom),
            )
            mask = marking.mask.unpacked()
            marked_px, zoom, tiles = int(np.count_nonzero(mask)), found.zoom, len(found.tiles)
            share, label = marked_px / mask.size, f"{item.item_id} / {region.region_id}"
            notes = tuple(filter(None, (focus.coarse(zoom), _laborious(tiles), _inside_out(region, share))))
            cell = None
            if draw:
                figures = f"{marked_px:,} px, {share:.1%}, seen at {_seen(zoom, tiles)}"
                cell = marked_cell(opened.source.rgb, mask, (label, figures, *notes), warned=bool(notes))
            yield MarkedRegion(item.row, label, _shape(region), marked_px, share, zoom, tiles, notes, cell)


def _shape(region: Region) -> str:
    return "box" if region.box is not None else "scribble" if region.scribble is not None else "mask"


def _seen(zoom: float, tiles: int) -> str:
    return f"{zoom:.2f}" + (f" in {tiles} tiles" if tiles > 1 else "")


def _laborious(tiles: int) -> str:
    """What a person should know of a region that takes many tiles; empty where it does not."""
    if tiles < _MANY_TILES:
        return ""
    return (
        f"larger than the model's picture: {tiles} times a small region's time; mark less, or set focus.tiles to none"
    )


def _inside_out(region: Region, share: float) -> str:
    if region.mask is None or share <= _MOST:
        return ""
    return "the mask marks most of the picture; mask_invert is for masks of what is to be kept"
