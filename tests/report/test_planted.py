"""Defects of known kind and size, planted one by one among clean items: each must be found, and ranked first.

The small version runs always; `-m slow` plants 500 of each kind. `-s` shows the table. Most of the seams that are
missed lie where the picture's own edges hide them, or in black that cannot get darker.

Last full run: 2026-11-24, 5a0fef2, `pytest -m slow tests/report/test_planted.py -s`, 7 minutes; 500 of each kind: found
100 % (seam 94.0 %), ranked first of twelve and among the first ten of 101 the same; no clean item flagged; of runs with
a wrong adapter 100 % alarmed, of quiet ones none.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from refine_ops.report.alarms import find_alarms
from refine_ops.report.config import MeasureSettings, TrendSettings
from refine_ops.report.figures import FindingCode, ItemMeasure
from refine_ops.report.measure.item import compare
from refine_ops.report.run_items import open_run
from refine_ops.report.trend import run_points
from tests.support.made_runs import MadeEdit, MadeRun, photo_edit

pytestmark = pytest.mark.long

COMPANY = 11
CROWD = 100
"""Clean items a planted one is ranked among: to be the first, and to be among the ten that the first screen shows."""
HISTORY = 10
RUN_ITEMS = 100


@dataclass(frozen=True)
class Planted:
    """A kind of defect: how it is made, and the finding that must name it."""

    name: str
    make: Callable[[MadeEdit, int], MadeEdit]
    code: FindingCode


KINDS = [
    Planted("one pixel off by 1 outside the allowed change", lambda e, s: e.with_stray_pixel(s), "strict.pixels"),
    Planted("ICC profile dropped", lambda e, s: e.without_icc(), "strict.metadata"),
    Planted("raw patch shifted by 2 px", lambda e, s: e.with_raw(shift_px=2.0, angle=float(s)), "drift.shift"),
    Planted("raw patch off in tone by 4 dE00", lambda e, s: e.with_raw_tone(4.0), "drift.tone"),
    Planted("hard seam, 16 levels", lambda e, s: e.with_seam(16.0 if s % 2 else -16.0), "seam"),
    Planted("sharp region smeared", lambda e, s: e.smeared(3.0 + s % 4), "effect.softer"),
    Planted("region untouched", lambda e, s: e.untouched(), "effect.none"),
]


def _clean(seed: int) -> MadeEdit:
    """What a good model does: restored through the blend, the raw patch off by a quarter pixel and half a level."""
    return photo_edit(seed, tone=float(seed % 5 - 2)).with_raw(shift_px=0.25, angle=float(seed), offset=seed % 3 - 1.0)


def _measured(folder: Path, edits: list[MadeEdit]) -> list[ItemMeasure]:
    run = MadeRun(folder)
    for i, edit in enumerate(edits):
        run.add(f"i{i}", edit)
    return [compare(item, MeasureSettings(processes=1), False).measure for item in open_run(run.write()).items()]


Rates = dict[str, tuple[float, float, float]]


def _table(folder: Path, count: int) -> tuple[Rates, float]:
    """(found, ranked first, shown) per kind, and the share of clean items with any finding; prints the table."""
    clean = _measured(folder / "clean", [_clean(seed) for seed in range(count)])
    severities = np.array([m.severity for m in clean])
    false_alarms = float((severities > 0).mean())
    rng = np.random.default_rng(0)
    rates = {}
    print(f"\n{'planted':52} {'items':>6} {'found':>7} {'first of 12':>12} {'in first 10 of 101':>19}")
    for number, kind in enumerate(KINDS):
        seeds = range(1000 * (number + 1), 1000 * (number + 1) + count)
        planted = _measured(folder / str(number), [kind.make(_clean(seed), seed) for seed in seeds])
        found = sum(any(f.code == kind.code for f in m.findings) for m in planted) / count
        above = np.array([(rng.choice(severities, CROWD) >= m.severity).cumsum() for m in planted])
        first, shown = float((above[:, COMPANY - 1] == 0).mean()), float((above[:, -1] < 10).mean())
        rates[kind.name] = (found, first, shown)
        print(f"{kind.name:52} {count:6} {found:7.1%} {first:12.1%} {shown:19.1%}")
    print(f"{'(clean)':52} {count:6} {false_alarms:7.1%} flagged falsely")
    return rates, false_alarms


def _nightly(pool: list[ItemMeasure], night: int, rng: np.random.Generator) -> list[ItemMeasure]:
    picked = rng.integers(0, len(pool), RUN_ITEMS)
    return [replace(pool[i], run=f"run-{night}", finished_at=1e9 + 86_400 * night) for i in picked]


def _wrong_adapter(folder: Path, pool_items: int, runs: int) -> tuple[float, float, float]:
    """Runs whose last night has the wrong adapter: softer and 1.5 levels off, each item below every threshold.

    Nights draw their items from pools of really measured ones. Returns the shares of runs with an alarm, with a raw
    drift alarm first, and of quiet runs with any alarm.
    """
    good = _measured(folder / "good", [_clean(seed) for seed in range(pool_items)])
    wrong = _measured(
        folder / "wrong",
        [
            _clean(seed).with_raw(shift_px=0.25, angle=float(seed), offset=3.0, soft_px=0.8)
            for seed in range(pool_items)
        ],
    )
    assert sum(any(f.code.startswith("drift") for f in m.findings) for m in wrong) <= 0.1 * pool_items
    rng = np.random.default_rng(1)
    found = first = false = 0
    for _ in range(runs):
        history = [p for n in range(HISTORY) for p in run_points(f"run-{n}", _nightly(good, n, rng), {})]
        for pool in (good, wrong):
            newest = run_points("now", _nightly(pool, HISTORY, rng), {})
            alarms = find_alarms(history, newest, TrendSettings())
            if pool is good:
                false += bool(alarms)
            else:
                found += bool(alarms)
                first += bool(alarms) and alarms[0].metric.startswith("raw_")
    print(f"{'run with a wrong adapter (raised an alarm)':52} {runs:6} {found / runs:7.1%} {first / runs:7.1%}")
    print(f"{'(quiet run)':52} {runs:6} {false / runs:7.1%} alarmed falsely")
    return found / runs, first / runs, false / runs


def _check(rates: Rates, false_alarms: float, exact: float, judged: float) -> None:
    assert false_alarms <= 0.01
    for kind in KINDS:
        found, first, shown = rates[kind.name]
        least = judged if kind.code in ("seam", "effect.softer") else exact
        assert found >= least, kind.name
        assert shown >= least, kind.name
        assert first >= least - COMPANY * false_alarms - 0.02, kind.name


def test_planted_defects_are_found_and_ranked_first(tmp_path: Path) -> None:
    rates, false_alarms = _table(tmp_path, 16)
    _check(rates, false_alarms, exact=1.0, judged=0.85)


def test_a_run_with_a_wrong_adapter_alarms_and_a_quiet_one_does_not(tmp_path: Path) -> None:
    found, first, false = _wrong_adapter(tmp_path, 24, 20)
    assert found >= 0.95
    assert first >= 0.95
    assert false <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_five_hundred_planted_of_each_kind(tmp_path: Path) -> None:
    rates, false_alarms = _table(tmp_path, 500)
    _check(rates, false_alarms, exact=0.98, judged=0.9)
    found, first, false = _wrong_adapter(tmp_path, 200, 500)
    assert found >= 0.98
    assert first >= 0.98
    assert false <= 0.02
