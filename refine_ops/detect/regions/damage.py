"""How probably a place is damaged, from what was measured of it, and what speaks for that in words."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.detect.regions.condition import Condition


@dataclass(frozen=True, slots=True)
class Damage:
    """`probability` in [0, 1], and what was measured, as people read it."""

    probability: float
    words: str


_FEATURES: Final = ("edge", "wide", "softer", "relative", "grain", "unread")
_WEIGHTS: Final = {
    "text": (0.234, -0.236, 5.685, -0.091, 1.789, 0.972, 0.384),
}


def features_of(condition: Condition) -> list[float]:
    """What the probability is made of, in the order of `_FEATURES`; what cannot be told counts as sound."""
    edge = condition.edge_px if condition.edge_px is not None else 0.7
    wide = condition.wide_px if condition.wide_px is not None else edge
    around = condition.edge_around_px if condition.edge_around_px is not None else edge
    grain = condition.grain if condition.grain is not None else 0.03
    beside = condition.grain_around if condition.grain_around is not None else grain
    return [
        float(np.log(edge)),
        float(np.log(wide)),
        float(np.log(edge / around)),
        float(np.log(edge / max(condition.height_px, 4) * 40)),
        float(np.log((grain + 0.01) / (min(beside, grain) + 0.02))),
        float(np.log(1.02 - (condition.legibility if condition.legibility is not None else 1.0)) + 3.9),
    ]


def damage_of(detector: str, condition: Condition) -> Damage:
    """How probably what this detector found is damaged."""
    if condition.softness is not None:
        return Damage(condition.softness, f"{condition.softness:.2f} less than its reference")
    weights = _WEIGHTS.get(detector, _WEIGHTS["text"])
    logit = weights[0] + float(np.dot(weights[1:], features_of(condition)))
    return Damage(float(1 / (1 + np.exp(-logit))), _words(condition))


def _words(condition: Condition) -> str:
    said = []
    if condition.edge_px is not None:
        said.append(f"edges {condition.edge_px:.2f} px wide")
        if condition.edge_around_px is not None:
            said[-1] += f" ({condition.edge_around_px:.2f} around)"
    if condition.grain is not None:
        said.append(f"grain {condition.grain:.1%} of its contrast")
    if condition.legibility is not None:
        said.append(f"read with {condition.legibility:.0%} certainty")
    return ", ".join(said) or "nothing to measure"
