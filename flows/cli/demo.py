"""`refine-ops demo`: damage details of real photos, refine them with the bundled model, and measure what came of it."""

from dataclasses import dataclass
from pathlib import Path

from flows.cli.options import run_batch
from flows.steps.summary import RunSummary
from refine_ops import storage
from refine_ops.config import ImageLimits, RefineBatchConfig
from refine_ops.data.demo.material import Truth, make_demo
from refine_ops.errors import JobError
from refine_ops.image import read
from refine_ops.image.difference import psnr


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything is, and each region's PSNR in dB against the undamaged photo: damaged, refined."""

    summary: RunSummary
    manifest: Path
    regions: list[tuple[str, float, float]]


def run_demo(folder: Path, verbose: bool = False) -> DemoResult:
    """Make the material below `folder`, refine it with `tiny` into `folder/run`, and measure every region."""
    try:
        manifest, truths = make_demo(folder)
    except OSError as e:
        raise JobError(f"cannot write {folder}: {e.strerror or e}; choose another folder by --out") from e
    summary = run_batch(RefineBatchConfig(manifest=str(manifest), out=str(folder / "run")), verbose)
    return DemoResult(summary, manifest, [_measured(truth, folder / "run" / "current") for truth in truths])


def _measured(truth: Truth, outputs: Path) -> tuple[str, float, float]:
    (output,) = outputs.glob(f"{truth.item_id}.*")
    refined = read.decode(storage.read(str(output)), name=str(output), limits=ImageLimits()).rgb
    label = f"{truth.item_id} / {truth.region_id}" + (" (with reference)" if truth.reference else "")
    before, after = (psnr(image, truth.clean, truth.mask) for image in (truth.damaged, refined))
    return label, before, after


def describe(result: DemoResult) -> str:
    """The demo's result as a person reads it."""
    summary = result.summary
    lines = [
        "",
        f"{summary.done} photos refined in {summary.elapsed_s:.0f} s, {summary.dead} dead; "
        f"{summary.changed_outside_px} pixels changed outside the allowed change.",
        "",
        f"{'region':40}{'damaged':>10}{'refined':>10}{'gain':>10}",
    ]
    lines += [
        f"{label:40}{before:>7.2f} dB{after:>7.2f} dB{after - before:>+7.2f} dB"
        for label, before, after in result.regions
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
