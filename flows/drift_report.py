"""Flow `drift-report`: what past runs did to pictures, for an operator; alarms become events."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.progress import Ticker
from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.report.build import Built, build_report
from refine_ops.report.cases import Case, open_run
from refine_ops.report.config import DriftReportConfig, PerceptualSettings
from refine_ops.report.folders import folder_cases
from refine_ops.report.measure.from_models import FILE
from refine_ops.report.page.markdown import markdown_summary
from refine_ops.report.review import Action, Mark, apply_decisions, read_decisions

logger = logging.getLogger(__name__)

EVENT_ALARM = "refine-ops.drift.alarm"
EVENT_VIOLATION = "refine-ops.drift.violation"


class DriftFound(JobError):
    """The report is written, and `fail_on` asks to fail on what it says."""


@flow(name="drift-report")
def drift_report(config: DriftReportConfig) -> str:
    """Measure, summarise, remember and render; returns the page's URI.

    Raises:
        DriftFound: a strict violation or an alarm, as `fail_on` says; the report is complete then.
    """
    if config.perceptual is not None and config.source is None:
        measure_with_models(config, config.perceptual)
    built = build(config)
    announce(built)
    create_markdown_artifact(
        key="drift-report",
        markdown=markdown_summary(built.folder, built.page, built.summary),
        description=built.summary["verdict"]["sentence"],
    )
    logger.info("%s %s", built.summary["verdict"]["sentence"], built.page)
    check(built, config)
    return built.page


@task(persist_result=False)
def measure_with_models(config: DriftReportConfig, settings: PerceptualSettings) -> None:
    """LPIPS and text accuracy into `metrics.parquet`; torch is needed for nothing else."""
    from refine_ops.eval.run_metrics import RunMeter

    meter, limits = RunMeter(settings), config.measure.limits
    for uri in config.runs:
        run = open_run(uri, config.nights)
        meter.measure(_ticked(run.cases(), run.count()), storage.join(run.uri, FILE), limits)
    if config.folders is not None:
        pairs = list(folder_cases(config.folders))
        meter.measure(_ticked(pairs, len(pairs)), storage.join(config.report_folder, FILE), limits)


def _ticked(cases: Iterable[Case], count: int) -> Iterator[Case]:
    ticker = Ticker("models")
    for done, case in enumerate(cases):
        ticker.update(done, count)
        yield case


@task(persist_result=False)
def build(config: DriftReportConfig) -> Built:
    return build_report(config, Ticker("report").update)


@task(persist_result=False)
def announce(built: Built) -> None:
    """One event per alarm, and one for broken promises; automations can act on them."""
    resource = {"prefect.resource.id": f"refine-ops.report.{built.folder}", "prefect.resource.name": built.page}
    for alarm in built.alarms:
        emit_event(EVENT_ALARM, resource, payload=asdict(alarm) | {"report": built.page})
    if built.summary["verdict"]["state"] == "violated":
        emit_event(EVENT_VIOLATION, resource, payload=built.summary["verdict"] | {"report": built.page})


def check(built: Built, config: DriftReportConfig) -> None:
    """Raises: DriftFound."""
    violated = built.summary["verdict"]["state"] == "violated"
    if config.fail_on != "never" and violated:
        raise DriftFound(f"{built.summary['verdict']['sentence']} See {built.page}")
    if config.fail_on == "alarm" and built.alarms:
        raise DriftFound(f"{len(built.alarms)} alarm(s), first: {built.alarms[0].text} See {built.page}")


def review_apply(decisions: str, run: str, rejected: Action = "redo") -> list[Mark]:
    """Mark the items of `run` that a person rejected in `decisions` (`decisions.json`), to be redone or left out.

    Raises:
        JobError: the file is not an export of a report, or speaks of outputs the run does not have.
    """
    return apply_decisions(run, read_decisions(decisions), rejected)
