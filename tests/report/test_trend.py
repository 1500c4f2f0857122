from pathlib import Path

import numpy as np
import pytest

from refine_ops.report.alarms import find_alarms
from refine_ops.report.config import TrendSettings
from refine_ops.report.figures import Finding, ItemMeasure
from refine_ops.report.nights import night_name
from refine_ops.report.trend import TrendPoint, append_trend, in_order, read_trend, run_points

SETTINGS = TrendSettings()


def _series(values: list[float], metric: str = "raw_de00", items: int = 200, spread: float = 0.5) -> list[TrendPoint]:
    return [TrendPoint(f"run-{i}", float(i), "all", metric, items, v, spread, v) for i, v in enumerate(values)]


def _alarms(values: list[float], **kind: object) -> list[str]:
    points = _series(values, **kind)  # type: ignore[arg-type]
    return [a.kind for a in find_alarms(points[:-1], points[-1:], SETTINGS)]


def _item(i: int, category: str, **metrics: float) -> ItemMeasure:
    return ItemMeasure(
        "run",
        f"i{i}",
        "f",
        "done",
        "",
        "",
        "",
        "",
        metrics=metrics,
        slices={"category": category},
        finished_at=100.0 + i,
    )


def test_a_jump_alarms_and_says_what_was_expected() -> None:
    points = _series([1.0, 1.05, 0.98, 1.02, 1.0, 0.97, 1.03, 1.01, 3.4])
    (alarm,) = find_alarms(points[:-1], points[-1:], SETTINGS)
    assert (alarm.kind, alarm.metric, alarm.since) == ("jump", "raw_de00", "run-8")
    assert alarm.expected == pytest.approx(1.0, abs=0.02)
    assert "expected 1.005 from 8 runs" in alarm.text


def test_a_small_move_that_stays_is_a_change_point_dated_to_its_first_run() -> None:
    points = _series([1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.02, 0.98, 1.4, 1.38, 1.42, 1.41, 1.39])
    (alarm,) = find_alarms(points[:-1], points[-1:], SETTINGS)
    assert (alarm.kind, alarm.since) == ("change-point", "run-8")


def test_better_is_no_alarm_where_only_worse_counts() -> None:
    assert _alarms([2.0] * 8 + [0.1], metric="seam_de") == []
    assert _alarms([0.1] * 8 + [2.0], metric="seam_de") == ["jump"]
    assert _alarms([10.0, 10.2, 9.9, 10.1, 10, 9.8, 10.1, 10, 4.0], metric="items_per_s") == ["jump"]
    assert _alarms([10.0, 10.2, 9.9, 10.1, 10, 9.8, 10.1, 10, 25.0], metric="items_per_s") == []


def test_few_runs_few_items_and_moves_that_do_not_matter_are_silent() -> None:
    assert _alarms([1.0] * 6 + [9.0]) == []
    assert _alarms([1.0] * 8 + [9.0], items=4) == []
    assert _alarms([1.0] * 20 + [1.1]) == []


def test_twelve_items_are_not_judged_as_ten_thousand() -> None:
    values = [1.0, 1.02, 0.99, 1.0, 1.01, 0.98, 1.0, 1.02, 2.3]
    assert _alarms(values, items=10_000, spread=2.0) == ["jump"]
    assert _alarms(values, items=12, spread=2.0) == []


def test_false_alarms_are_rare_over_many_quiet_nights() -> None:
    """3,000 night-metrics of noise in run medians of 0.02 to 0.1 dE00: at most 1 in 750 alarms."""
    rng = np.random.default_rng(0)
    raised = 0
    for noise in (0.02, 0.05, 0.1):
        for _ in range(1000):
            raised += bool(_alarms(list(1.5 + noise * rng.standard_normal(int(rng.integers(8, 31))))))
    assert raised <= 4


def test_the_history_is_appended_to_and_the_newest_report_of_a_run_counts(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for i in range(12):
        append_trend(folder, [TrendPoint(f"run-{i}", 1e9 + i, "all", "raw_de00", 5, float(i), 0.0, 0.0)])
    first = {p: p.read_bytes() for p in tmp_path.iterdir()}
    again = [TrendPoint("run-11", 1e9 + 20, "all", "raw_de00", 6, 99.0, 0.0, 0.0)]
    assert append_trend(folder, again) == append_trend(folder, again)
    assert all(p.read_bytes() == data for p, data in first.items())
    points = read_trend(folder, 5)
    assert [p.run for p in points] == ["run-8", "run-9", "run-10", "run-11"]
    assert points[-1].value == 99.0


def test_nights_of_a_folder_follow_its_starts_whatever_their_clocks_say(tmp_path: Path) -> None:
    def night(run: str, start: int, hour: float, value: float = 1.0) -> TrendPoint:
        return TrendPoint(night_name(run, start), 1e9 + 3600 * hour, "all", "raw_de00", 200, value, 0.5, value)

    ours = [night("s3://runs/a", start, 24 * start) for start in range(1, 12)]
    behind = night("s3://runs/a", 12, 24 * 11 - 1, 3.4)  # refined on a node whose clock is an hour behind
    theirs = [night("s3://runs/b", 5, 24 * 3 + 1), night("s3://runs/b start 9", 0, 24 * 20)]
    for point in [behind, *theirs, *ours]:
        append_trend(str(tmp_path), [point])
    points = read_trend(str(tmp_path), 20)
    assert points == [*ours[:3], theirs[0], *ours[3:], behind, theirs[1]]
    assert in_order(reversed(points)) == points
    (alarm,) = find_alarms(points[:-2], [behind], SETTINGS)
    assert alarm.since == "s3://runs/a start 12"


def test_runs_are_summarised_over_all_items_and_every_slice() -> None:
    items = [_item(i, "shoes" if i % 2 else "bags", raw_de00=float(i)) for i in range(10)]
    items[0] = ItemMeasure("run", "x", "f", "dead", "r", "m", "", "", findings=(Finding("dead", 1, 0, ""),), attempts=3)
    points = {(p.slice, p.metric): p for p in run_points("run", items, {"items_per_s": 4.0})}
    assert points[("all", "raw_de00")].value == 5.0
    assert points[("category=shoes", "raw_de00")].value == 5.0
    assert points[("all", "dead_share")].value == pytest.approx(0.1)
    assert points[("all", "attempts")].value == pytest.approx(1.2)
    assert points[("all", "items_per_s")].value == 4.0
    assert ("category=shoes", "dead_share") in points
