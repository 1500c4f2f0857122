"""The steps of `detect-regions`: plan, look at every image, write what it comes to."""

import logging

from flows.progress import ProgressDisplay
from flows.steps.engine import IN_PROCESS, Engine
from refine_ops import storage
from refine_ops.detect.finding.load import open_finders
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.folder import DetectionPlan, open_plan, resolved
from refine_ops.detect.regions.listing import image_of, plan_of
from refine_ops.detect.regions.parts import Looker
from refine_ops.detect.regions.results import DetectionSummary, explained, publish_results
from refine_ops.detect.regions.work import do_parts
from refine_ops.errors import Unacceptable

logger = logging.getLogger(__name__)


def detect(config: DetectRegionsConfig, engine: Engine = IN_PROCESS) -> DetectionSummary:
    """Find regions in all images of the source and write them as a manifest; the same folder resumes.

    Raises:
        JobError: settings, detectors or rules are wrong, or it could not go on.
        Unacceptable: no image could be read; what was wrong with each is in the dead letter.
    """
    config = resolved(config)
    plan = engine.step(open_plan)(config)
    engine.note(f"{plan.images.num_rows} images in {plan.parts} parts, {len(plan.todo)} to do")
    engine.step(look)(config, plan, engine)
    summary = engine.step(publish)(config)
    engine.show("detected-regions", markdown(summary), f"{summary.regions} regions in {summary.images} images")
    if summary.dead == summary.images:
        raise Unacceptable(
            f"none of the {summary.images:,} images could be read; {summary.out}/dead_letter.parquet says why of each"
        )
    return summary


def look(config: DetectRegionsConfig, plan: DetectionPlan, engine: Engine = IN_PROCESS) -> None:
    """Look at the images of all parts that are to do."""
    if plan.todo:
        display = ProgressDisplay("detect", "images", elsewhere=engine.show_progress("detect-progress"))
        do_parts(config, plan.images, plan.todo, display.update)


def publish(config: DetectRegionsConfig) -> DetectionSummary:
    """Write the manifest and what lies beside it."""
    return publish_results(storage.resolve(config.out), config.limits)


def explain(config: DetectRegionsConfig, item: str) -> list[str]:
    """What becomes of each detection of one image: it is looked at now, and nothing is written.

    Raises:
        JobError: the source has no such image, or settings are wrong.
    """
    config = resolved(config)
    looker = Looker(config, open_finders(config.detectors, config.limits))
    return list(explained(looker.row(image_of(config, plan_of(config), item))))


def markdown(summary: DetectionSummary) -> str:
    """The summary as a page for people."""
    lines = [f"# {summary.regions:,} regions in {summary.with_regions:,} of {summary.images:,} images", ""]
    for title, counts in (
        ("regions by class", summary.regions_by_class),
        ("detections by what became of them", summary.detections_by_fate),
        ("images that could not be read", summary.dead_by_reason),
    ):
        if counts:
            lines += [f"| {title} | |", "| --- | --- |", *(f"| {n} | {c:,} |" for n, c in counts.items()), ""]
    return "\n".join([*lines, f"Manifest: `{summary.manifest}`"])
