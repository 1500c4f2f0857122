"""Raw drift: what the model did to pixels it was not asked to change, before paste-back hides it.

Measured on the crop before `align` corrects it. The published image does not show it, so a retrained adapter could
grow worse there for long before anyone sees it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.eval.metrics.metric import CaseBatch, Metric, Scores

RAW_DE00: Final = Metric(
    "raw_de00", 1, "raw dE00", "lower", "drift", "median CIEDE2000 of the crop's known pixels, uncorrected"
)
RAW_SHIFT: Final = Metric(
    "raw_shift_px", 1, "raw shift px", "lower", "drift", "shift of the crop's known pixels, native px"
)


@dataclass(frozen=True, slots=True)
class DriftMeter:
    """Of outputs whose method measured an alignment; not where too few known pixels were generated to tell."""

    metrics: tuple[Metric, ...] = (RAW_DE00, RAW_SHIFT)
    source: str = "refine-ops"
    repeatable: bool = True
    missing: str = ""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        found = [a if a is not None and a.measured else None for a in batch.alignments]
        return {
            RAW_DE00.name: np.array([np.nan if a is None else a.de00_before for a in found]),
            RAW_SHIFT.name: np.array([np.nan if a is None else a.shift_px for a in found]),
        }
