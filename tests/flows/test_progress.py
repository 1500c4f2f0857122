from io import StringIO

import pytest

from flows import progress
from flows.progress import ProgressDisplay, pace


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "text"),
    [
        (0, 10, 5.0, ""),
        (5, 10, 0.0, ""),
        (5, 20, 10.0, ", 0.50 items/s, 30 s left"),
        (10, 10, 4.0, ", 2.50 items/s"),
        (60_000, 60_000, 2.0, ", 30,000 items/s"),
        (1, 36_001, 1.0, ", 1.00 items/s, 10 h 0 min left"),
    ],
)
def test_pace(done: int, total: int, elapsed_s: float, text: str) -> None:
    assert pace(done, total, elapsed_s, "items") == text


def test_a_line_every_two_seconds_and_none_for_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    now, shown = 100.0, StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    ticker = ProgressDisplay("check", stream=shown)
    for done in range(1, 6):
        now += 0.9
        ticker.update(done, 2000, "one")
    assert shown.getvalue().splitlines() == ["check: 3/2,000 items, 1.11 items/s, 29 min 57 s left, one"]
