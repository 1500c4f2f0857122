"""Stage 4, degrade: `Inpaint(I*, M)` of Eq. 12, as a seam, and its implementation without any weights."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from refine_ops.data.config import ModelFree
from refine_ops.data.stages.damages import ALL_EQUAL, DAMAGES, degrade
from refine_ops.errors import JobError
from refine_ops.records import Mask, U8Image

_SCALE_PX = 256
"""The crop's longer side that `refine_ops.data.stages.damages` is tuned for, roughly."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """A crop after degradation, `uint8 (h, w, 3)`, before the paste-back; `steps` in order of application."""

    pixels: U8Image
    steps: tuple[dict[str, Any], ...]
    families: tuple[str, ...]


class Degrader(Protocol):
    """Damages a crop where the mask says; what it does elsewhere the paste-back undoes."""

    @property
    def name(self) -> str:
        """Model or library, for provenance."""

    def degrade(self, crop: U8Image, mask: Mask, description: str, rng: np.random.Generator) -> Degraded:
        """Deterministic in its arguments and the generator's state. Raises ItemError `degrade.*`."""


class ModelFreeDegrader:
    """Implements `Degrader` with the damages of `refine_ops.data.stages.damages`, the excluded families left out."""

    def __init__(self, settings: ModelFree, exclude: Collection[str]) -> None:
        """Raises JobError where the mix names no known degradation, or nothing is left of it."""
        mix = ALL_EQUAL if settings.mix is None else settings.mix
        unknown = sorted(set(mix) - set(DAMAGES))
        self._mix = {name: weight for name, weight in mix.items() if weight > 0 and name not in exclude}
        if unknown or not self._mix:
            raise JobError(f"degradations: expected some of {sorted(DAMAGES)}, got {unknown or 'none that is left'}")
        self._settings = settings

    @property
    def name(self) -> str:
        return f"model-free (opencv {cv2.__version__})"

    def degrade(self, crop: U8Image, mask: Mask, description: str, rng: np.random.Generator) -> Degraded:
        """Damage the crop, a large one at a random scale: the damages' few pixels suit crops of about `_SCALE_PX`.

        The scale is log-uniform from 1 to the one that brings the crop to `_SCALE_PX`, so large regions lose fine and
        coarse structure alike.
        """
        coarsest = max(1.0, max(mask.shape) / _SCALE_PX)
        scale = float(coarsest ** rng.random())
        size = max(1, round(mask.shape[1] / scale)), max(1, round(mask.shape[0] / scale))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        marked = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        strength = self._settings.least_strength, self._settings.most_strength
        damaged, applied = degrade(small, marked, rng, self._mix, strength, (1, self._settings.most_steps))
        pixels = np.asarray(cv2.resize(damaged, mask.shape[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
        steps = tuple({"degradation": name, "strength": power, "scale": round(scale, 4)} for name, power in applied)
        return Degraded(pixels, steps, tuple(name for name, _ in applied))
