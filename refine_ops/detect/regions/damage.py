"""How probably a place is damaged, from what was measured of it, and what speaks for that in words.

One logistic model per symptom, and the worst of them decides, so that it can be said in a word what is wrong. Fitted on
rendered signs of the `train` side (`tests/bench/signs.py`), each limit where 1 to 2 % of the clean ones are.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.detect.regions.condition import Condition

FEATURES: Final = ("edge", "wide", "height", "noise", "blocks", "colour", "unread")
SYMPTOMS: Final = {
    "blurred": {"": 0.304, "edge": 3.053, "wide": 5.419, "height": -2.895},
    "coarsely coded": {"": -1.207, "edge": 5.660, "noise": -0.312, "blocks": 7.021, "colour": 5.663},
    "noisy": {"": -10.852, "noise": 5.536, "edge": 1.633},
    "hard to read": {"": -1.517, "unread": 0.432, "wide": 3.566},
}
"""Weights by feature, and the constant under no name."""


@dataclass(frozen=True, slots=True)
class Damage:
    """`probability` in [0, 1], and what was measured, as people read it."""

    probability: float
    words: str


def features_of(condition: Condition) -> dict[str, float]:
    """What the probability is made of; what cannot be told counts as sound."""
    edge = 0.8 if condition.edge_px is None else condition.edge_px
    wide = edge if condition.wide_px is None else condition.wide_px
    legibility = 1.0 if condition.legibility is None else condition.legibility
    return {
        "edge": float(np.log(edge)),
        "wide": float(np.log(wide)),
        "height": float(np.log(max(condition.height_px, 4) / 40)),
        "noise": float(np.log((1.5 if condition.noise is None else condition.noise) + 0.5)),
        "blocks": float(np.log(condition.blocks or 1.0)),
        "colour": float(np.log((condition.colour_px or edge) / edge)),
        "unread": float(np.log(1.02 - legibility) + 3.9),
    }


def damage_of(condition: Condition) -> Damage:
    """How probably this place is damaged; what the detector saw itself, against a reference, comes before all else."""
    if condition.softness is not None:
        return Damage(condition.softness, "blurred against its reference" if condition.softness >= 0.5 else "as sharp")
    found = features_of(condition)
    logits = {
        symptom: weights[""] + sum(weight * found[name] for name, weight in weights.items() if name)
        for symptom, weights in SYMPTOMS.items()
    }
    worst = max(logits, key=lambda symptom: logits[symptom])
    probability = float(1 / (1 + np.exp(-logits[worst])))
    return Damage(probability, f"{worst if logits[worst] > 0 else 'sound'}: {_measured(condition)}")


def _measured(condition: Condition) -> str:
    said = []
    if condition.edge_px is not None:
        said.append(f"edges {condition.edge_px:.2f} px wide")
    if condition.noise is not None:
        said.append(f"noise of {condition.noise:.1f} levels")
    if condition.legibility is not None:
        said.append(f"read with {condition.legibility:.0%} certainty")
    return ", ".join(said) or "nothing to measure"
