"""The report from end to end: measure, summarise, remember, render."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from refine_ops import storage
from refine_ops.job.ledger import read_ledger
from refine_ops.report.alarms import Alarm, find_alarms
from refine_ops.report.cases import open_run
from refine_ops.report.config import DriftReportConfig, FolderPair, MeasureSettings, TrendSettings
from refine_ops.report.folders import folder_cases
from refine_ops.report.html import render_html
from refine_ops.report.measure import measure_cases
from refine_ops.report.measures import ItemMeasure
from refine_ops.report.summary import RunFigures, run_figures, summarise
from refine_ops.report.trend import TrendPoint, append_trend, read_trend, run_points

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """Where the report is, what `report.json` says, and the alarms it raised."""

    folder: str
    page: str
    summary: dict[str, Any]
    alarms: tuple[Alarm, ...]


def build_report(config: DriftReportConfig) -> Built:
    """Make the report `config` asks for; with `source`, only render its HTML again.

    Raises:
        JobError: a run, a folder or the trend cannot be read, or the report cannot be written.
    """
    folder = storage.resolve(config.report_folder)
    if config.source is not None:
        page = render_html(folder, config.layout)
        return Built(folder, page, json.loads(storage.read(storage.join(folder, "report.json"))), ())
    measured, planned = _measure(config, folder)
    figures = [run_figures(run, items, planned.get(run, len(items)), config.cost) for run, items in measured.items()]
    alarms, history, state = _trend(measured, figures, config.trend)
    summary = summarise(
        title=_title(config),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        items=[item for items in measured.values() for item in items],
        runs=figures,
        alarms=alarms,
        history=history,
        thresholds=config.measure.thresholds,
        trend_state=state,
    )
    storage.write(storage.join(folder, "report.json"), json.dumps(summary, ensure_ascii=False, indent=1).encode())
    return Built(folder, render_html(folder, config.layout), summary, tuple(alarms))


def measure_run(run: str, settings: MeasureSettings, folder: str) -> list[ItemMeasure]:
    """Measure one run folder into `folder` (`items.parquet`, `evidence/`)."""
    opened = open_run(run)
    count = len(read_ledger(opened.folder.outcomes, []))
    return measure_cases(opened.cases(), count, folder, settings)


def measure_folders(pair: FolderPair, settings: MeasureSettings, folder: str) -> list[ItemMeasure]:
    """Measure two folders of images into `folder`."""
    cases = list(folder_cases(pair))
    return measure_cases(cases, len(cases), folder, settings)


def _measure(config: DriftReportConfig, folder: str) -> tuple[dict[str, list[ItemMeasure]], dict[str, int]]:
    """Measures by run, in the order given, and how many items each run planned."""
    if config.folders is not None:
        items = measure_folders(config.folders, config.measure, folder)
        return {items[0].run: items}, {}
    runs = [open_run(uri) for uri in config.runs]
    count = sum(len(read_ledger(run.folder.outcomes, [])) for run in runs)
    items = measure_cases((case for run in runs for case in run.cases()), count, folder, config.measure)
    measured: dict[str, list[ItemMeasure]] = {run.uri: [] for run in runs}
    for item in items:
        measured[item.run].append(item)
    return measured, {run.uri: run.planned() for run in runs}


def _trend(
    measured: dict[str, list[ItemMeasure]], figures: Sequence[RunFigures], settings: TrendSettings
) -> tuple[list[Alarm], list[TrendPoint], str]:
    """Alarms of the newest run, the whole history with this report's runs, and a sentence where there is no alarm."""
    points = {f.run: run_points(f.run, measured[f.run], f.trend_figures) for f in figures if measured[f.run]}
    ordered = sorted(points.values(), key=lambda p: p[0].finished_at)
    own = [point for run in ordered for point in run]
    if settings.folder is None:
        history, state = [], "No trend folder is set, so runs are not compared with their history."
    else:
        history = read_trend(settings.folder, settings.window_runs + len(points))
        for run in ordered:
            append_trend(settings.folder, run)
    past = [p for p in history if p.run not in points]
    everything = [*past, *own]
    if not ordered:
        return [], everything, "There was nothing to compare."
    newest = ordered[-1]
    alarms = find_alarms([p for p in everything if p.finished_at <= newest[0].finished_at], newest, settings)
    if settings.folder is not None:
        runs = len({p.run for p in everything} - {newest[0].run})
        learning = f"; alarms begin after {settings.min_runs}" if runs < settings.min_runs else ""
        state = f"No alarm: the newest run is within its history of {runs} run(s){learning}."
    return alarms, everything, state


def _title(config: DriftReportConfig) -> str:
    if config.folders is not None:
        return f"{config.folders.before} → {config.folders.after}"
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in config.runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
