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
_BLURRED: Final = (0.75, 0.06, 0.78, 0.55)
"""Of a region that is merely blurred: least support, most contradiction, what 95 % of its windows exceed, and most that
any window may clash. One wrong letter breaks the last two."""
_TORN: Final = (0.25, 0.75)
"""Of a partly intact or melted region: least support, and least correlation of the coarse shape."""
_CLASH: Final = (0.85, 1.0)
"""Most that a window may clash: one as sharp as the photo around it (displaced letters stay below, another letter does
not), and, since less of a blurred region is to be seen, one of the region as blurred as it is."""
_HIDDEN: Final = (0.1, 0.3)
"""Share of the region whose detail is lost: up to the first nothing that matters can hide there, from the second on
(whatever the blur) the region is erased rather than blurred."""
_CONTRADICTED: Final = 0.2
"""Share of contradicting windows from which on it is refused."""
_NEAR: Final = 0.7
"""Least explained variance where the surroundings alone speak for the reference."""
_OFF: Final = (1.0, 1.1)
"""Windows of a region that is merely blurred, or of its surroundings, may lie off by this on average (`Windows.off`):
what lies on a cylinder or a fold agrees in every place, but in no single pose."""
_LOOKED_AT: Final = 0.1
"""Least share of the surroundings that show something, for that to be told."""
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
    intact: Windows
    coarse: Windows
    surroundings: Windows


def verdict_of(measured: PoseMeasures) -> tuple[Verdict, str]:
    """The verdict and its reason, as people read it."""
    inside, intact = measured.inside, measured.intact
    if measured.rank < _LOCATED:
        return "refused", f"it was not found in the picture (agreement {measured.rank:.2f}, at least {_LOCATED} needed)"
    if measured.covered < _COVERED:
        return "refused", f"it covers {measured.covered:.0%} of the region, at least {_COVERED:.0%} needed"
    numbers = f"{inside.support:.0%} of the region supports it, {inside.contradiction:.0%} contradicts"
    support, contradiction, worst, clash = _BLURRED
    agrees = inside.support >= support and inside.contradiction <= contradiction
    if agrees and inside.worst >= worst and inside.clash <= clash:
        if inside.off > _OFF[0] and merely_blurred(measured):
            return "cannot tell", f"{numbers}, but lies {inside.shift_px:.1f} px off: perhaps it is bent"
        return "fits", numbers
    around = measured.surroundings
    if around.off > _OFF[1] and around.telling >= _LOOKED_AT:
        return "cannot tell", f"its surroundings lie {around.shift_px:.1f} px off on average: perhaps it is bent"
    if inside.hidden < _HIDDEN[1] and merely_blurred(measured):
        return "cannot tell", f"{numbers}, too much for a region that is merely blurred: perhaps another edition"
    if intact.clash > _CLASH[0] or inside.clash > _CLASH[1]:
        unlike: Verdict = "refused" if inside.contradiction > _CONTRADICTED else "cannot tell"
        return unlike, f"{numbers}, and what is left shows something else in one place: perhaps another edition"
    if intact.hidden > _HIDDEN[0]:
        lost = f"{numbers}; {intact.hidden:.0%} of it shows nothing that could confirm or contradict"
        return ("unopposed" if measured.rank >= _NEAR else "cannot tell"), lost
    if inside.support >= _TORN[0] and measured.coarse.mean >= _TORN[1] and not inside.blurred_away:
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
