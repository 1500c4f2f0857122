"""Whether a run's end makes a drift report, and of what."""

import json
import logging
from dataclasses import dataclass

from flows.steps.summary import RunSummary
from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.job.run_folder import RunFolder
from refine_ops.report.config import DriftReportConfig

logger = logging.getLogger(__name__)


def due_report(
    config: RefineBatchConfig, folder: RunFolder, summary: RunSummary, refined: bool
) -> DriftReportConfig | None:
    """The drift report: of the whole folder up to `report_items`, of this night alone in a folder that has grown
    larger, and none where nothing has changed since the last one, unless that found a broken promise."""
    if not (summary.done or summary.held or summary.dead) or not config.report_items:
        return None
    whole, last = summary.done <= config.report_items, last_report(folder)
    violated = last is not None and last.violated
    known = not whole or (last is not None and (last.done, last.dead) == (summary.done, summary.dead))
    if not refined and known and not violated:
        logger.info("nothing was refined; the drift report stays as it is")
        return None
    if not whole and summary.refined_now > config.report_items:
        logger.warning(
            "%d items are too many for a drift report here (report_items %d): refine-ops report %s --nights 1",
            summary.refined_now,
            config.report_items,
            folder.uri,
        )
        return None
    return DriftReportConfig(runs=(folder.uri,), nights=None if whole else 1)


@dataclass(frozen=True, slots=True)
class LastReport:
    """What the drift report in a run folder says; a broken promise must not pass for mended by starting again."""

    done: int
    dead: int
    violated: bool


def last_report(folder: RunFolder) -> LastReport | None:
    """The folder's own report; None without one, or where it covers other runs too."""
    uri = storage.join(folder.uri, "report", "report.json")
    if not storage.exists(uri):
        return None
    summary = json.loads(storage.read(uri))
    if len(summary["runs"]) != 1:
        return None
    [run] = summary["runs"]
    return LastReport(run["done"], run["dead"], summary["verdict"]["state"] == "violated")
