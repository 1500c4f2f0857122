"""Flow `drift-report`: what past runs did to pictures, for an operator; alarms become events."""

from prefect import flow

from flows.prefect_engine import UNDER_PREFECT
from flows.steps.drift import report_drift
from refine_ops.report.config import DriftReportConfig
from refine_ops.report.review import Action, ReviewMark, apply_decisions, read_decisions


@flow(name="drift-report")
def drift_report(config: DriftReportConfig) -> str:
    """Measure, summarise, remember and render; returns the page's URI.

    Raises:
        DriftFound: a strict violation or an alarm, as `fail_on` says; the report is complete then.
    """
    return report_drift(config, UNDER_PREFECT)


def review_apply(decisions: str, run: str, rejected: Action = "redo") -> list[ReviewMark]:
    """Mark the items of `run` that a person rejected in `decisions` (`decisions.json`), to be redone or left out.

    Raises:
        JobError: the file is not an export of a report, or speaks of outputs the run does not have.
    """
    return apply_decisions(run, read_decisions(decisions), rejected)
