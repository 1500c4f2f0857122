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
_CLEAN: Final = (0.75, 0.06)
"""Support and contradiction from which a region is merely blurred, so that one wrong letter shows."""
_WORST: Final = 0.78
"""What 95 % of a merely blurred region's windows exceed where the reference is the right one."""
_TORN: Final = (0.25, 0.2)
"""Least support and most contradiction where a region is partly intact or melted."""
_SHARP: Final = 0.35
"""Least sharpness of a torn region: a softer one is merely blurred, and must agree everywhere."""
_SHAPE: Final = 0.75
"""Least correlation of what displaced details keep, both sides blurred by 4 px."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one pose; shares and correlations in [0, 1] and [-1, 1]."""

    rank: float
    around: float
    covered: float
    inside: Windows
    coarse: Windows
    surroundings: Windows


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and its reason, as people read it."""
    inside = evidence.inside
    if evidence.rank < _LOCATED:
        return "refused", f"it was not found in the picture (agreement {evidence.rank:.2f}, at least {_LOCATED} needed)"
    if evidence.covered < _COVERED:
        return "refused", f"it covers {evidence.covered:.0%} of the region, at least {_COVERED:.0%} needed"
    if 1 - inside.silence < _SPEAKS:
        return "cannot tell", f"{inside.silence:.0%} of the region shows nothing that could confirm it"
    if inside.support >= _CLEAN[0] and inside.contradiction <= _CLEAN[1]:
        if inside.worst >= _WORST:
            return "fits", f"{inside.support:.0%} of the region supports it"
        return (
            "cannot tell",
            f"a part of the region agrees by {inside.worst:.2f} only: another edition, or worse damage",
        )
    torn = inside.sharpness >= _SHARP and evidence.coarse.mean >= _SHAPE
    if torn and inside.support >= _TORN[0] and inside.contradiction <= _TORN[1]:
        return "fits", f"{inside.support:.0%} of the region supports it, {inside.contradiction:.0%} contradicts"
    if inside.contradiction > _TORN[1]:
        return "refused", f"{inside.contradiction:.0%} of the region contradicts it"
    return "cannot tell", f"{inside.support:.0%} of the region supports it, {inside.contradiction:.0%} contradicts"


def agreement(evidence: Evidence, method: str, inliers: int) -> Agreement:
    """The record of it."""
    verdict, reason = judge(evidence)
    return Agreement(
        verdict=verdict,
        reason=reason,
        method=method,
        inliers=inliers,
        residual_px=evidence.inside.shift_px,
        rank=evidence.rank,
        outside=evidence.around,
        inside=evidence.coarse.mean,
        covered=evidence.covered,
        support=evidence.inside.support,
        contradiction=evidence.inside.contradiction,
        silence=evidence.inside.silence,
        worst=evidence.inside.worst,
    )
