"""The history of runs: one Parquet part per report, only ever added, so that two nights never write the same object."""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.report.figures import FIGURES, FINDINGS, ItemMeasure
from refine_ops.report.nights import of_night

ALL = "all"
"""The slice that holds every item."""


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One metric of one slice of one run.

    `value` is the median over items (for shares: the share), `spread` their robust standard deviation (1.4826 MAD; for
    shares the binomial one), so that a run of 12 items is not judged as if it were 10,000.
    """

    run: str
    finished_at: float
    slice: str
    metric: str
    items: int
    value: float
    spread: float
    p95: float


_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("finished_at", pa.float64()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("items", pa.int64()),
        ("value", pa.float64()),
        ("spread", pa.float64()),
        ("p95", pa.float64()),
    ]
)


def run_points(run: str, items: Sequence[ItemMeasure], extra: dict[str, float]) -> list[TrendPoint]:
    """Summarise one run: every metric over all items and over every slice; `extra` are figures of the whole run."""
    finished_at = max((i.finished_at for i in items), default=0.0)
    slices: dict[str, list[ItemMeasure]] = defaultdict(list)
    for item in items:
        slices[ALL].append(item)
        for key, member in item.slices.items():
            slices[f"{key}={member}"].append(item)
    points = [TrendPoint(run, finished_at, ALL, name, len(items), value, 0.0, value) for name, value in extra.items()]
    for name, members in slices.items():
        for metric, (centre, spread, p95) in _values(members).items():
            points.append(TrendPoint(run, finished_at, name, metric, len(members), centre, spread, p95))
    return points


def append_trend(folder: str, points: Sequence[TrendPoint]) -> str:
    """Add one run's points as a new part named by the run's end and content; returns its URI.

    Adding the same points twice is success; nothing that is there is ever changed.
    """
    if not points:
        raise ValueError("a run without points has nothing to add to the trend")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(p) for p in points], schema=_SCHEMA), sink, compression="zstd")
    data = sink.getvalue()
    stamp = datetime.fromtimestamp(points[0].finished_at, UTC).strftime("%Y%m%dT%H%M%S")
    uri = storage.join(folder, f"{stamp}-{storage.sha256(data)[:16]}.parquet")
    storage.write(uri, data, only_if_absent=True)
    return uri


def read_trend(folder: str, runs: int) -> list[TrendPoint]:
    """The points of the newest `runs` parts, oldest first; of a run that was reported twice, the newest part's."""
    parts = [u for u in storage.list_files(folder, ".parquet") if re.match(r"\d{8}T\d{6}-", u.rsplit("/", 1)[-1])]
    points: dict[tuple[str, str, str], TrendPoint] = {}
    for uri in parts[-runs:]:
        for row in pq.read_table(io.BytesIO(storage.read(uri)), schema=_SCHEMA).to_pylist():
            point = TrendPoint(**row)
            points[(point.run, point.slice, point.metric)] = point
    return in_order(points.values())


def in_order(points: Iterable[TrendPoint]) -> list[TrendPoint]:
    """The oldest night first: those of one run folder as its starts follow each other, folders beside each other by
    their clocks.

    A night whose clock was behind the one before it counts as having ended with that.
    """
    points = list(points)
    ends: dict[tuple[str, int], float] = {}
    for point in points:
        night = of_night(point.run)
        ends[night] = max(point.finished_at, ends.get(night, 0.0))
    latest: dict[str, float] = {}
    for run, start in sorted(ends):
        ends[run, start] = latest[run] = max(ends[run, start], latest.get(run, 0.0))

    def place(point: TrendPoint) -> tuple[float, str, int]:
        run, start = of_night(point.run)
        return ends[run, start], run, start

    return sorted(points, key=place)


def series(points: Iterable[TrendPoint]) -> dict[tuple[str, str], list[TrendPoint]]:
    """Points by (slice, metric), oldest first."""
    result: dict[tuple[str, str], list[TrendPoint]] = defaultdict(list)
    for point in in_order(points):
        result[(point.slice, point.metric)].append(point)
    return dict(result)


def _values(items: Sequence[ItemMeasure]) -> dict[str, tuple[float, float, float]]:
    """(value, spread, p95) of every metric that at least one of the items has."""
    result = {}
    for metric in FIGURES:
        measured = np.array([i.metrics[metric.name] for i in items if metric.name in i.metrics])
        if len(measured):
            centre = float(np.median(measured))
            spread = 1.4826 * float(np.median(np.abs(measured - centre)))
            result[metric.name] = (centre, spread, float(np.percentile(measured, 95)))
    shares: dict[str, Callable[[ItemMeasure], bool]] = {
        "dead_share": lambda i: i.status == "dead",
        "held_share": lambda i: i.status == "held",
        "strict_share": lambda i: any(FINDINGS[f.code].strict for f in i.findings),
        "softer_share": lambda i: any(f.code == "effect.softer" for f in i.findings),
        "untouched_share": lambda i: any(f.code == "effect.none" for f in i.findings),
    }
    for name, holds in shares.items():
        result[name] = _share(sum(map(holds, items)), len(items))
    regions = [r for i in items if i.status == "done" for r in i.regions if r.made_by]
    if regions:
        result["transfer_share"] = _share(sum(r.made_by == "transfer" for r in regions), len(regions))
    registered = [r for r in regions if r.agreement is not None]
    if registered:
        result["unfit_share"] = _share(sum(r.reference != "fits" for r in registered), len(registered))
    result["attempts"] = (float(np.mean([i.attempts for i in items])), float(np.std([i.attempts for i in items])), 0.0)
    return result


def _share(holding: int, of: int) -> tuple[float, float, float]:
    share = holding / max(1, of)
    return share, float(np.sqrt(share * (1 - share))), share
