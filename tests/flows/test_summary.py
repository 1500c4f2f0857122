"""What a summary counts, added up part by part."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flows.steps.summary import Tally
from refine_ops.job.ledger import outcomes_table
from refine_ops.records import Alignment, Outcome, RegionOutcome, Ruling, Verification

REGION = RegionOutcome("r", 5, (1, 2, 3, 4), (0, 0, 8, 8), 64, 64, 30, 8, 3.5, 1, "none", Alignment(True))
REFUSED = replace(REGION, ruling=Ruling(False, "gate.detail_lost"))
TAKEN = replace(REGION, ruling=Ruling(True))


def done(name: str, row: int, start: int = 2, *regions: RegionOutcome, **proven: bool) -> Outcome:
    proof = Verification("pillow", 30, 28, 0, 0, 0, True, **proven)
    return Outcome(
        name, "f", "done", row=row, start=start, regions=regions, verification=proof, timings_s={"refine": 0.5}
    )


def ended(name: str, row: int, status: str, reason: str, start: int = 2) -> Outcome:
    return Outcome(
        name, "f", status, row=row, start=start, reason=reason, message=f"of {name}", timings_s={"read": 1.0}
    )


@pytest.fixture
def tally() -> Tally:
    found = Tally(2)
    found.add(
        outcomes_table(
            [
                done("a", 7, 2, REGION, REFUSED, TAKEN, signed=True),
                done("b", 1, 1, credentials_removed=True),
                ended("c", 6, "held", "gate.detail"),
                ended("d", 5, "dead", "image.truncated"),
            ]
        )
    )
    found.add(outcomes_table([ended("e", 0, "dead", "image.truncated", 1), ended("f", 3, "held", "gate.text")]))
    found.add(outcomes_table([done("g", 2, 2, REFUSED)]))
    return found


def test_all_is_counted_and_this_starts_share_of_it(tally: Tally) -> None:
    assert tally.counts == {"done": 3, "held": 2, "dead": 2}
    assert tally.now == {"done": 2, "held": 2, "dead": 1}
    assert tally.reasons == {"held": {"gate.detail": 1, "gate.text": 1}, "dead": {"image.truncated": 2}}
    assert tally.device_s == 1.0, "of what this start refined"
    assert tally.regions_held == 2, "of refined items, those that nobody judged aside"
    assert tally.proven == {"changed_outside_px": 0, "credentials_removed": 1, "signed": 1}


@pytest.mark.parametrize(
    ("which", "names"),
    [(lambda t: t.dead, ["e", "d"]), (lambda t: t.held, ["f", "c"]), (lambda t: t.done, ["b", "g", "a"])],
)
def test_lists_are_in_the_order_of_the_manifest(
    tally: Tally, which: Callable[[Tally], object], names: list[str]
) -> None:
    assert which(tally)["item_id"].to_pylist() == names  # type: ignore[index]


def test_no_more_is_kept_than_is_listed() -> None:
    found = Tally(1)
    for first in range(0, 300, 60):
        found.add(outcomes_table([ended(f"i{row}", 299 - row, "held", "x") for row in range(first, first + 60)]))
    assert found.held["row"].to_pylist() == list(range(100))
    assert found.counts["held"] == 300
