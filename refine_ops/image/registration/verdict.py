"""Whether a registered reference may be used: the numbers, and what follows from them.

The limits were fitted on composites with the `train` fonts and photos (`tests/bench/bench_register.py`); the held-out
ones and RefineEval-mini only ever measured them.
"""

from dataclasses import dataclass
from typing import Final

from refine_ops.image.registration.agree import Windows
from refine_ops.records import Agreement, Verdict

_LOCATED: Final = 0.5
"""Least explained variance, over all plus half of that around the mask: a wrong reference reaches 0.48 at most."""
_COVERED: Final = 0.9
_SPEAKS: Final = 0.3
"""Least share of the region's windows that show anything at all."""
_BLURRED: Final = (0.75, 0.06, 0.78)
"""Of a region that is merely blurred: least support, most contradiction, and what 95 % of its windows exceed. One wrong
letter breaks the last."""
_TORN: Final = (0.25, 0.2, 0.75)
"""Of a partly intact or melted region: least support, most contradiction, and least correlation of the coarse shape."""
_SOFTER: Final = (0.6, 0.77)
"""A region less sharp than the first share of its surroundings is merely blurred; than the second, where nearly all of
it agrees."""
_NEARLY: Final = 0.8
_SOFT: Final = 0.5
"""The same as an absolute sharpness, where the surroundings show too little to compare with."""
_SURROUNDINGS: Final = (0.05, 0.25)
"""Least share of windows around the mask that show something, and least sharpness, to be compared with."""


@dataclass(frozen=True, slots=True)
class PoseMeasures:
    """What was measured of one pose; shares and correlations in [0, 1] and [-1, 1]."""

    rank: float
    around: float
    covered: float
    inside: Windows
    coarse: Windows
    surroundings: Windows


def verdict_of(measured: PoseMeasures) -> tuple[Verdict, str]:
    """The verdict and its reason, as people read it."""
    inside = measured.inside
    if measured.rank < _LOCATED:
        return "refused", f"it was not found in the picture (agreement {measured.rank:.2f}, at least {_LOCATED} needed)"
    if measured.covered < _COVERED:
        return "refused", f"it covers {measured.covered:.0%} of the region, at least {_COVERED:.0%} needed"
    if 1 - inside.silence < _SPEAKS:
        return "cannot tell", f"{inside.silence:.0%} of the region shows nothing that could confirm it"
    numbers = f"{inside.support:.0%} of the region supports it, {inside.contradiction:.0%} contradicts"
    if inside.support >= _BLURRED[0] and inside.contradiction <= _BLURRED[1] and inside.worst >= _BLURRED[2]:
        return "fits", numbers
    if inside.contradiction > _TORN[1]:
        return "refused", numbers
    if merely_blurred(measured):
        return "cannot tell", f"{numbers}, too much for a region that is merely blurred: perhaps another edition"
    if inside.support >= _TORN[0] and measured.coarse.mean >= _TORN[2] and not inside.blurred_away:
        return "fits", numbers
    return "cannot tell", numbers


def merely_blurred(measured: PoseMeasures) -> bool:
    """Whether detail is lost rather than displaced or gone: the right reference then agrees everywhere."""
    inside, around = measured.inside, measured.surroundings
    if around.telling >= _SURROUNDINGS[0] and around.sharpness >= _SURROUNDINGS[1]:
        return inside.sharpness < _SOFTER[inside.support >= _NEARLY] * around.sharpness
    return inside.sharpness < _SOFT


def agreement(measured: PoseMeasures, method: str, inliers: int) -> Agreement:
    """The record of it."""
    verdict, reason = verdict_of(measured)
    return Agreement(
        verdict=verdict,
        reason=reason,
        method=method,
        inliers=inliers,
        residual_px=measured.inside.shift_px,
        rank=measured.rank,
        outside=measured.around,
        inside=measured.coarse.mean,
        covered=measured.covered,
        support=measured.inside.support,
        contradiction=measured.inside.contradiction,
        silence=measured.inside.silence,
        worst=measured.inside.worst,
    )
