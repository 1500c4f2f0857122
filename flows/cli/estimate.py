"""`--plan-only`: what a run would cost, from measured times: the run folder's own where it has any, else ours."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cli.check import Checked, open_sample
from flows.cli.options import SAMPLE
from flows.progress import ProgressDisplay, duration
from flows.steps.weights import parts_of, resolve_adapters
from refine_ops import identity, storage
from refine_ops.config import ModelSettings, RefineBatchConfig
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import Plan, PlanReader, refuse, scan_manifest
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.starts import StartRecord, read_starts
from refine_ops.model.presets import (
    PRESETS,
    TRANSFER,
    VAE_PIXELS,
    EditorPreset,
    Preset,
    apply_overrides,
    resolve_preset,
)

_H100_STEP_S: Final = {"eager": (0.708, 1.002), "compile": (0.569, 0.827), "fp8": (0.453, 0.674)}
"""One denoising step at 1024^2 without and with a reference image: bf16, one H100, full-size random weights."""
_H100_STAGES_S: Final = (0.136 + 0.148 + 0.077, (0.136 + 0.148) * 4 / 3 + 0.077)
"""Text encoder and VAE encoding of three or four images (the fourth in proportion), VAE decoding; same machine."""
_NO_WORK: Final = {"registry", "allow_hub", "allow_other_base", "licence"}
"""Settings of the model that change nothing of what a region takes."""
_LATER: Final = {"pipeline", "guidance_scale", "strength", "offload"}
"""Settings of the model that earlier releases did not record: they had their defaults."""
_TRANSFER_REGION_S: Final = 0.8
"""One region with a reference on one CPU core, the demo's (`python -m tests.bench.demo_references`): registration."""
_TINY_REGION_S: Final = 0.26
"""One region on two CPU cores, the slowest set of the checkpoint's card (`python -m refine_ops.train.tiny.measure`)."""


@dataclass(frozen=True, slots=True)
class ToDo:
    """What is left of a plan. `references` counts regions with one; `tiles` is how many a region takes, on average over
    the pictures that were opened."""

    items: int
    done: int
    regions: int
    references: int
    tiles: float = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What outcomes of this run folder took: model seconds per region on one device, over so many regions, of
    which some were transferred."""

    region_s: float
    regions: int
    transferred: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time of one model for what is left; `region_s` and `device_s` are seconds of one `device`, None where nobody has
    measured any."""

    model: str
    steps: int
    device: str
    model_pixels: int
    region_s: float | None
    device_s: float | None


def plan_only(config: RefineBatchConfig, price: float | None = None, sample: int = SAMPLE) -> str:
    """What the run would do and cost, and what the regions of some pictures mark, as text; nothing is written.

    Args:
        price: Of one device for one hour.
        sample: Items that are opened at most, spread evenly, as `check --open` does; 0: all.

    Raises:
        JobError: the manifest cannot be read, or is refused as a whole; or the run folder's ledger cannot be read.
    """
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
        refuse(config.manifest, plan.problems)
        outcomes = storage.join(storage.resolve(config.out), "outcomes")
        checked = Checked(plan, list(plan.problems))
        open_sample(checked, PlanReader(local), config, sample)
        todo = to_do(PlanReader(local), outcomes, config)
        if checked.regions:
            todo = replace(todo, tiles=checked.tiles / checked.regions)
    known, transfer_first = measured(config), config.refine.model.first == "transfer"
    said = describe(plan, todo, estimates(todo, config, known), known, price, transfer_first)
    return "\n\n".join(filter(None, [said, checked.describe(), _unopened(checked)]))


def _unopened(checked: Checked) -> str:
    count = len(checked.problems) - len(checked.plan.problems)
    return f"{count:,} of the pictures opened cannot be refined (see `refine-ops check --open`)" if count else ""


def to_do(plan: PlanReader, outcomes: str, config: RefineBatchConfig) -> ToDo:
    """What of the plan has no outcome; sources are not looked at."""
    redo = config.on_new_fingerprint == "redo"
    left = remaining(
        plan,
        read_known(outcomes, plan),
        recheck=False,
        retry_dead=config.retry_dead,
        fingerprint=identity.digest(parts_of(resolve_adapters(config.refine)))[:32] if redo else "",
        max_older=config.max_new if redo else 0,
    )
    regions = plan.columns(["regions"])["regions"].combine_chunks().take(pa.array(left.positions)).flatten()
    return ToDo(
        items=len(left.positions),
        done=left.done + left.held + left.dead,
        regions=len(regions),
        references=len(regions) - pc.struct_field(regions, "reference").null_count,
    )


def measured(config: RefineBatchConfig) -> Measured | None:
    """What outcomes of this run folder took, of the starts that had the same model settings."""
    now = resolve_adapters(config.refine).model.model_dump(mode="json", exclude=_NO_WORK)
    return measured_of(storage.resolve(config.out), lambda model: model == now)


def measured_of(uri: str, alike: Callable[[dict[str, Any]], bool]) -> Measured | None:
    """What outcomes of a run folder took, of the starts whose model settings are `alike`."""
    same = [start.number for start in read_starts(uri) if alike(_model_of(start))]
    if not same:
        return None
    ledger = read_ledger(storage.join(uri, "outcomes"), ["status", "regions", "timings_s"])
    mine = pc.and_(pc.not_equal(ledger["status"], "dead"), pc.is_in(ledger["start"], value_set=pa.array(same)))
    made = ledger.filter(mine)
    regions = int(pc.sum(pc.list_value_length(made["regions"])).as_py() or 0)
    seconds = sum(dict(times).get("refine", 0.0) for times in made["timings_s"].to_pylist())
    makers = pc.struct_field(made["regions"].combine_chunks().flatten(), "made_by")
    transferred = int(pc.sum(pc.equal(makers, "transfer")).as_py() or 0)
    return Measured(seconds / regions, regions, transferred) if regions else None


def _model_of(start: StartRecord) -> dict[str, Any]:
    model = start.what.get("config", {}).get("refine", {}).get("model", {})
    new = {name: field.default for name, field in ModelSettings.model_fields.items() if name in _LATER}
    return new | {name: value for name, value in model.items() if name not in _NO_WORK}


def estimates(todo: ToDo, config: RefineBatchConfig, known: Measured | None = None) -> list[Estimate]:
    """Model time of the configured model, then of presets that were measured; I/O is hidden behind it."""
    settings = config.refine.model
    chosen = apply_overrides(resolve_preset(settings), settings)
    rows = [_estimate(settings.model, chosen, todo, config, known)]
    others = {n: p for n, p in PRESETS.items() if n != settings.model and not isinstance(p, EditorPreset)}
    return rows + [_estimate(n, p, todo, config, None) for n, p in others.items()]


def _estimate(name: str, preset: Preset, todo: ToDo, config: RefineBatchConfig, known: Measured | None) -> Estimate:
    pixels = config.refine.focus.focus_pixels or preset.focus_pixels
    if isinstance(preset, EditorPreset) and known is None:
        return Estimate(name, preset.steps, "", pixels, None, None)
    plain_s, referenced_s = _region_seconds(name, preset, pixels, config.refine.model)
    device = {"tiny": "2 CPU cores", TRANSFER: "one CPU core"}.get(name, "one H100")
    device_s = (plain_s * (todo.regions - todo.references) + referenced_s * todo.references) * todo.tiles
    if known:
        device, device_s = "one device as before", known.region_s * todo.regions
    return Estimate(name, preset.steps, device, pixels, device_s / max(1, todo.regions), device_s)


def _region_seconds(name: str, preset: Preset, pixels: int, settings: ModelSettings) -> tuple[float, float]:
    """One region without and with a reference. Time goes with the number of pixels: 512^2 was measured at 0.27 of
    1024^2, where 0.25 is said."""
    if name == TRANSFER:
        return 0.0, _TRANSFER_REGION_S
    if name == "tiny":
        share = preset.steps / PRESETS["tiny"].steps * pixels / preset.focus_pixels
        return _TINY_REGION_S * share, _TINY_REGION_S * share
    step_s = np.array(_H100_STEP_S["fp8" if settings.fp8 else "eager" if settings.compile is False else "compile"])
    passes = preset.steps * (2 if preset.true_cfg_scale > 1.0 else 1)
    plain_s, referenced_s = (passes * step_s + np.array(_H100_STAGES_S)) * pixels / VAE_PIXELS
    return float(plain_s), float(referenced_s)


def describe(
    plan: Plan, todo: ToDo, rows: list[Estimate], known: Measured | None, price: float | None, transfer_first: bool
) -> str:
    """The plan and its estimates as text, the configured model first."""
    lines = [
        f"{plan.items:,} images, {plan.regions:,} regions, {plan.shards:,} shards",
        f"{len(plan.problems):,} rows cannot be refined (see `refine-ops check`)",
    ]
    if todo.done:
        lines += [f"{todo.done:,} images have an outcome in this run folder already; {todo.items:,} are left"]
    tiles = f"; {todo.tiles:.1f} tiles each, where pictures were opened" if todo.tiles > 1 else ""
    lines += [f"{todo.regions:,} regions to refine, {todo.references:,} of them with a reference{tiles}", ""]
    cost = "" if price is None else f"{'cost':>14}"
    lines += [f"{'model':34}{'steps':>6}{'model pixels':>16}{'per region':>13}{'in all':>16}{cost}"]
    for row in rows:
        if row.device_s is None or row.region_s is None:
            lines.append(f"{row.model:34}{row.steps:>6}{'':>16} not measured here: a `canary` tells")
            continue
        cost = "" if price is None else f"{price * row.device_s / 3600:>14,.2f}"
        pixels = round(row.model_pixels * todo.regions * todo.tiles)
        lines.append(
            f"{row.model:34}{row.steps:>6}{pixels:>16,}{row.region_s:>11.2f} s"
            f"{duration(row.device_s):>16}{cost} on {row.device}"
        )
    if known:
        taken = f", {known.transferred:,} of them by transfer" if known.transferred else ""
        lines += ["", f"{rows[0].model}: as measured on {known.regions:,} regions in this run folder{taken}"]
    elif transfer_first:
        lines += ["", f"{rows[0].model}: at most; a region whose reference fits takes no model time (first: transfer)"]
    return "\n".join(lines)
