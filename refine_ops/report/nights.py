"""Nights of one run folder: the same folder goes on with every start, and each has its own figures and trend.

A night is a start, however long it takes or pauses: nothing is told from gaps between times.
"""

import re
from collections.abc import Sequence

from refine_ops.report.figures import ItemMeasure


def by_night(items: Sequence[ItemMeasure]) -> dict[int, list[ItemMeasure]]:
    """Items by the start that refined them, the oldest first."""
    nights: dict[int, list[ItemMeasure]] = {}
    for item in sorted(items, key=lambda i: i.start):
        nights.setdefault(item.start, []).append(item)
    return nights


def busy_s(items: Sequence[ItemMeasure]) -> tuple[float, int]:
    """Seconds between the first and the last finished item of each night, summed, and the intervals counted in them."""
    span_s, intervals = 0.0, 0
    for members in by_night(items).values():
        times = [i.finished_at for i in members if i.finished_at > 0]
        if times:
            span_s += max(times) - min(times)
            intervals += len(times) - 1
    return span_s, intervals


def night_name(run: str, start: int) -> str:
    """What a night is called in the trend. A start keeps its number, so a report made again replaces its own points."""
    return f"{run} start {start}" if start else run


def of_night(name: str) -> tuple[str, int]:
    """The run folder and the start that `night_name` was made of; start 0 where it names none."""
    found = re.fullmatch(r"(.+) start (\d+)", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)
