"""`refine-ops demo`: damage details of real photos, refine them with the bundled model, and measure what came of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.cli.options import run_batch
from flows.steps.summary import RunSummary
from refine_ops import storage
from refine_ops.config import ImageLimits, RefineBatchConfig
from refine_ops.data.demo.material import Truth, make_demo
from refine_ops.errors import JobError
from refine_ops.image import read
from refine_ops.image.difference import psnr
from refine_ops.job.ledger import read_ledger
from refine_ops.judge.judge import in_words


@dataclass(frozen=True, slots=True)
class DemoRegion:
    """A region's PSNR in dB against the undamaged photo: damaged, and as the model made it (None: it made nothing that
    can be shown). `held` says why that was not published; empty where it was."""

    label: str
    damaged: float
    made: float | None
    held: str


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything is, and what became of each region."""

    summary: RunSummary
    manifest: Path
    regions: list[DemoRegion]


def run_demo(folder: Path, verbose: bool = False) -> DemoResult:
    """Make the material below `folder`, refine it with `tiny` into `folder/run`, and measure every region."""
    try:
        manifest, truths = make_demo(folder)
    except OSError as e:
        raise JobError(f"cannot write {folder}: {e.strerror or e}; choose another folder by --out") from e
    summary = run_batch(RefineBatchConfig(manifest=str(manifest), out=str(folder / "run")), verbose)
    ledger = read_ledger(storage.join(summary.run, "outcomes"), ["object", "candidate", "regions"])
    outcomes = {row["item_id"]: row for row in ledger.to_pylist()}
    return DemoResult(summary, manifest, [_measured(truth, outcomes[truth.item_id], summary.run) for truth in truths])


def _measured(truth: Truth, outcome: dict[str, Any], run: str) -> DemoRegion:
    """What is not published is measured in the file that is kept of it."""
    label = f"{truth.item_id} / {truth.region_id}" + (" (with reference)" if truth.reference else "")
    (region,) = (r for r in outcome["regions"] if r["region_id"] == truth.region_id)
    held = "" if region["ruling"]["accepted"] else in_words(region["ruling"]["reason"])
    made = outcome["candidate"] if held else outcome["object"]
    damaged = psnr(truth.damaged, truth.clean, truth.mask)
    if not made:
        return DemoRegion(label, damaged, None, held)
    uri = storage.join(run, made)
    shown = read.decode(storage.read(uri), name=uri, limits=ImageLimits()).rgb
    return DemoRegion(label, damaged, psnr(shown, truth.clean, truth.mask), held)


def _line(region: DemoRegion) -> str:
    said = f"{region.label:40}{region.damaged:>7.2f} dB"
    said += f"{'':20}" if region.made is None else f"{region.made:>7.2f} dB{region.made - region.damaged:>+7.2f} dB"
    return said + (f"  held: {region.held}" if region.held else "")


def describe(result: DemoResult) -> str:
    """The demo's result as a person reads it."""
    summary = result.summary
    lines = [
        "",
        f"{summary.done} photos refined in {summary.elapsed_s:.0f} s, {summary.held} held, {summary.dead} dead; "
        f"{summary.changed_outside_px} pixels changed outside the allowed change.",
        "",
        f"{'region':40}{'damaged':>10}{'made':>10}{'gain':>10}",
    ]
    lines += [_line(region) for region in result.regions]
    if any(region.held for region in result.regions):
        lines += [
            "",
            "What was held is not published: there the photo is as it was (`run --publish all`: whatever comes).",
        ]
    lines += [
        "",
        f"look here first   {summary.contact_sheet}",
        f"drift report      {summary.run}/report/report.html",
        f"summary           {summary.summary}",
        f"outputs           {summary.run}/current",
        f"manifest          {result.manifest}",
        "",
        "This was 'tiny', a model of a few million parameters that shows how the package works. For real work name a",
        "real one: refine-ops run MANIFEST --out DIR --model refineanything-2511-lightning-8 --allow-hub",
    ]
    return "\n".join(lines)
