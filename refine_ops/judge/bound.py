"""How much of what is published may be worse: exact binomial bounds, and a threshold chosen without breaking them.

The bound is Clopper and Pearson's (1934), one-sided. A threshold is found as in Learn then Test (Angelopoulos et al.,
2021), by testing in a fixed order: thresholds are tried from a first one to ever looser ones, each at the full level,
and the search ends with the first that fails. The first one and the order come from other cases than the test, so all
that passed hold at once, with the confidence of one test.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from scipy.special import betaincinv

_MOST_CASES: Final = 1_000_000


def upper_bound(worse: int, published: int, confidence: float = 0.95) -> float:
    """The largest share of worse ones that `worse` of `published` still allow; 1 where none was published."""
    if published == 0 or worse >= published:
        return 1.0
    return float(betaincinv(worse + 1, published - worse, confidence))


def lower_bound(worse: int, published: int, confidence: float = 0.95) -> float:
    """The smallest share of worse ones."""
    return 0.0 if worse == 0 else float(betaincinv(worse, published - worse + 1, 1 - confidence))


def cases_needed(max_harm: float, confidence: float = 0.95, share_worse: float = 0.0) -> int | None:
    """How many published cases keep the promise where `share_worse` of them are worse; None: no number does."""
    if share_worse >= max_harm:
        return None
    few, many = 1, 2
    while upper_bound(round(share_worse * many), many, confidence) > max_harm:
        few, many = many, many * 2
        if many > _MOST_CASES:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        kept = upper_bound(round(share_worse * middle), middle, confidence) <= max_harm
        few, many = (few, middle) if kept else (middle, many)
    return many


def one_each(cases: Sequence[str], worse: Sequence[bool]) -> tuple[int, int]:
    """Worse and published cases, from what was published: of each case one result, drawn by the case's name.

    Results of one case share their picture and fail together; one of each is independent, which the bound needs.
    """
    of: dict[str, list[bool]] = {}
    for case, bad in zip(cases, worse, strict=True):
        of.setdefault(case, []).append(bad)
    return sum(drawn[_draw(case, len(drawn))] for case, drawn in of.items()), len(of)


def loosest(
    counts: Mapping[float, tuple[int, int]], order: Sequence[float], max_harm: float, confidence: float
) -> float | None:
    """The last threshold of `order` that keeps the promise and all before it; None where the first does not.

    Args:
        counts: (worse, published) by threshold.
        order: From the first threshold to the loosest, fixed without looking at `counts`.
    """
    kept = None
    for threshold in order:
        if upper_bound(*counts[threshold], confidence) > max_harm:
            break
        kept = threshold
    return kept


def _draw(case: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(case.encode()).digest()[:4], "big") % count
