"""The report from end to end: measure, summarise, remember, render."""

import json
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from refine_ops import storage
from refine_ops.progress import OnProgress, no_progress
from refine_ops.report.alarms import Alarm, find_alarms
from refine_ops.report.chosen import choose
from refine_ops.report.config import DriftReportConfig
from refine_ops.report.figures import ItemMeasure
from refine_ops.report.folders import folder_items
from refine_ops.report.items import write_close_ups
from refine_ops.report.measure.close_ups import close_ups
from refine_ops.report.measure.from_models import FILE, with_modelled
from refine_ops.report.measure.many import measure_items
from refine_ops.report.nights import by_night, night_name
from refine_ops.report.page.html import render_html
from refine_ops.report.promise import promise_in_words
from refine_ops.report.review import Reviewed, count_reviewed
from refine_ops.report.run_items import ReportedItem, open_run
from refine_ops.report.summary import run_figures, summarise
from refine_ops.report.trend import TrendPoint, append_trend, in_order, read_trend, run_points

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """Where the report is, what `report.json` says, and the alarms it raised."""

    folder: str
    page: str
    summary: dict[str, Any]
    alarms: tuple[Alarm, ...]


def build_report(config: DriftReportConfig, on_progress: OnProgress = no_progress) -> Built:
    """Make the report `config` asks for; with `source`, only render its HTML again.

    Raises:
        JobError: a run, a folder or the trend cannot be read, or the report cannot be written.
    """
    folder = storage.resolve(config.report_folder)
    if config.source is not None:
        page = render_html(folder, config.layout)
        return Built(folder, page, json.loads(storage.read(storage.join(folder, "report.json"))), ())
    found = _measure(config, folder, on_progress)
    measured = found.by_run
    figures = [
        run_figures(run, items, found.planned.get(run, len(items)), config.cost, found.published.get(run))
        for run, items in measured.items()
    ]
    alarms, history, state = _trend(measured, config)
    everything = [item for items in measured.values() for item in items]
    regions = {(c.item.run, c.item.item_id): c.region_id for c in choose(everything)}
    write_close_ups(folder, close_ups(found.again(regions), regions, config.measure))
    summary = summarise(
        title=_title(config),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        items=everything,
        runs=figures,
        alarms=alarms,
        history=history,
        thresholds=config.measure.thresholds,
        trend_state=state,
        promise=found.promise,
    )
    storage.write(storage.join(folder, "report.json"), json.dumps(summary, ensure_ascii=False, indent=1).encode())
    return Built(folder, render_html(folder, config.layout), summary, tuple(alarms))


@dataclass(frozen=True, slots=True)
class _Measured:
    """Measures by run, in the order given; how many items each whole run planned and has published; what is promised.
    `again` gives the items with these (run, item id) once more."""

    by_run: dict[str, list[ItemMeasure]]
    again: Callable[[Collection[tuple[str, str]]], Iterable[ReportedItem]]
    planned: dict[str, int] = field(default_factory=dict)
    published: dict[str, int | None] = field(default_factory=dict)
    promise: list[str] = field(default_factory=list)


def _measure(config: DriftReportConfig, folder: str, on_progress: OnProgress) -> _Measured:
    if config.folders is not None:
        pairs = folder_items(config.folders)
        if config.perceptual is not None:
            pairs = with_modelled(pairs, storage.join(folder, FILE))
        cases = list(pairs)
        items = measure_items(cases, len(cases), folder, config.measure, on_progress)
        return _Measured({items[0].run: items}, lambda wanted: (c for c in cases if (c.run, c.item_id) in wanted))
    runs = [open_run(uri, config.nights) for uri in config.runs]
    found = (case for run in runs for case in with_modelled(run.items(), storage.join(run.uri, FILE)))
    items = measure_items(found, sum(run.count() for run in runs), folder, config.measure, on_progress)
    measured: dict[str, list[ItemMeasure]] = {run.uri: [] for run in runs}
    for item in items:
        measured[item.run].append(item)
    return _Measured(
        measured,
        lambda wanted: (c for run in runs for c in run.items({i for uri, i in wanted if uri == run.uri})),
        {run.uri: run.planned() for run in runs if run.nights is None},
        {run.uri: run.published() for run in runs},
        promise_in_words([run.promises() for run in runs], sum((count_reviewed(r.uri) for r in runs), Reviewed())),
    )


def _trend(
    measured: dict[str, list[ItemMeasure]], config: DriftReportConfig
) -> tuple[list[Alarm], list[TrendPoint], str]:
    """Alarms of the newest night, the whole history with this report's nights, and a sentence where there is no alarm.

    A run folder that goes on with every night is one point a night, not one point that is overwritten.
    """
    settings = config.trend
    points = {}
    for run, items in measured.items():
        for start, members in by_night(items).items():
            name = night_name(run, start)
            points[name] = run_points(name, members, run_figures(run, members, 0, config.cost).trend_figures)
    own = in_order(point for night in points.values() for point in night)
    ordered = [points[name] for name in dict.fromkeys(point.run for point in own)]
    if settings.folder is None:
        history, state = [], "No trend folder is set, so runs are not compared with their history."
    else:
        history = read_trend(settings.folder, settings.window_runs + len(points))
        for night_points in ordered:
            append_trend(settings.folder, night_points)
    past = [p for p in history if p.run not in points]
    everything = [*past, *own]
    if not ordered:
        return [], everything, "There was nothing to compare."
    newest = ordered[-1]
    known = in_order(everything)
    until = max(place for place, point in enumerate(known) if point.run == newest[0].run)
    alarms = find_alarms(known[: until + 1], newest, settings)
    if settings.folder is not None:
        runs = len({p.run for p in everything} - {newest[0].run})
        learning = f"; alarms begin after {settings.min_runs}" if runs < settings.min_runs else ""
        state = f"No alarm: the newest night is within its history of {runs} night(s){learning}."
    return alarms, everything, state


def _title(config: DriftReportConfig) -> str:
    if config.folders is not None:
        return f"{config.folders.before} → {config.folders.after}"
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in config.runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
