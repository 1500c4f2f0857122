"""The drift report's steps: measure with models where asked, build, tell of alarms, fail as told."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Final

from flows.progress import ProgressDisplay
from flows.steps.engine import IN_PROCESS, Engine
from refine_ops import storage
from refine_ops.errors import Unacceptable
from refine_ops.report.build import Built, build_report
from refine_ops.report.config import DriftReportConfig, PerceptualSettings
from refine_ops.report.folders import folder_items
from refine_ops.report.measure.from_models import FILE
from refine_ops.report.page.markdown import markdown_summary
from refine_ops.report.run_items import ReportedItem, open_run

logger = logging.getLogger(__name__)

EVENT_ALARM: Final = "refine-ops.drift.alarm"
EVENT_VIOLATION: Final = "refine-ops.drift.violation"


class DriftFound(Unacceptable):
    """The report is written, and `fail_on` asks to fail on what it says."""


def report_drift(config: DriftReportConfig, engine: Engine = IN_PROCESS) -> str:
    """Measure, summarise, remember and render; returns the page's URI.

    Raises:
        DriftFound: a strict violation or an alarm, as `fail_on` says; the report is complete then.
    """
    if config.perceptual is not None and config.source is None:
        engine.step(measure_with_models)(config, config.perceptual)
    built = engine.step(build)(config)
    engine.step(announce)(built, engine)
    verdict = built.summary["verdict"]["sentence"]
    engine.show("drift-report", markdown_summary(built.folder, built.page, built.summary), verdict)
    logger.info("%s %s", verdict, built.page)
    check(built, config)
    return built.page


def measure_with_models(config: DriftReportConfig, settings: PerceptualSettings) -> None:
    """LPIPS and text accuracy into `metrics.parquet`; torch is needed for nothing else."""
    from refine_ops.eval.run_metrics import RunMeter

    meter, limits = RunMeter(settings), config.measure.limits
    for uri in config.runs:
        run = open_run(uri, config.nights)
        meter.measure(_shown(run.items(), run.count()), storage.join(run.uri, FILE), limits)
    if config.folders is not None:
        pairs = list(folder_items(config.folders))
        meter.measure(_shown(pairs, len(pairs)), storage.join(config.report_folder, FILE), limits)


def _shown(items: Iterable[ReportedItem], count: int) -> Iterator[ReportedItem]:
    display = ProgressDisplay("models")
    for done, item in enumerate(items):
        display.update(done, count)
        yield item


def build(config: DriftReportConfig) -> Built:
    return build_report(config, ProgressDisplay("report").update)


def announce(built: Built, engine: Engine) -> None:
    """One event per alarm, and one for broken promises; automations can act on them."""
    resource = {"prefect.resource.id": f"refine-ops.report.{built.folder}", "prefect.resource.name": built.page}
    for alarm in built.alarms:
        engine.emit(EVENT_ALARM, resource, asdict(alarm) | {"report": built.page})
    if built.summary["verdict"]["state"] == "violated":
        engine.emit(EVENT_VIOLATION, resource, built.summary["verdict"] | {"report": built.page})


def check(built: Built, config: DriftReportConfig) -> None:
    """Raises: DriftFound."""
    # Nights are counted in starts that refined something: without this the report of an older one would be all is well.
    if config.fail_on == "alarm" and config.nights is not None:
        for uri in config.runs:
            if last := open_run(uri, config.nights).failed_last():
                raise DriftFound(
                    f"start {last.number} of {uri} ended as {last.exit!r} and published nothing; {built.page} tells of "
                    f"earlier nights. Look at: refine-ops starts {uri}"
                )
    violated = built.summary["verdict"]["state"] == "violated"
    if config.fail_on != "never" and violated:
        raise DriftFound(f"{built.summary['verdict']['sentence']} See {built.page}")
    if config.fail_on == "alarm" and built.alarms:
        raise DriftFound(f"{len(built.alarms)} alarm(s), first: {built.alarms[0].text} See {built.page}")
