"""Degraded versions of a clean case and the choice among them.

The paper makes 5 scribbles x 3 seeds of them per inpainting method and picks 2 by hand. Here the choice is a rule, and
an overrides file may replace it: versions whose mean change over M lies in the band are ordered by it, and `keep` of
them are taken at even ranks from mild to harsh, no two with the same scribble while others are left.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.data.config import DiffusersInpainting
from refine_ops.data.stages.damages import degrade
from refine_ops.data.stages.degrade import Degraded, Degrader
from refine_ops.data.stages.masks import Limits, scribble_mask
from refine_ops.data.stages.sample import change_over, damage
from refine_ops.errors import ItemError, JobError
from refine_ops.records import Mask, U8Image

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "soft": ("defocus_blur", "motion_blur", "down_up_sampling"),
    "melted": ("local_warp", "ghosting"),
    "erased": ("inpainting", "stroke_erasure"),
}
"""The model-free degraders: details lost, details displaced, details gone."""
_LIMITS: Final = Limits(least_area=0.25, most_area=0.9, most_parts=2)


@dataclass(frozen=True, slots=True, eq=False)
class DegradedVersion:
    """One degraded input; `name` is s<scribble>k<seed>, `change` the mean |I - I*| over M, in 1/255."""

    degrader: str
    name: str
    scribble: int
    mask: Mask
    image: U8Image
    change: float


@dataclass(frozen=True, slots=True)
class FamilyDegrader:
    """Implements `Degrader` with one family of model-free damages, one or two in a row, of medium to full strength."""

    family: str

    @property
    def name(self) -> str:
        return self.family

    def degrade(self, crop: U8Image, mask: Mask, description: str, rng: np.random.Generator) -> Degraded:
        weights = dict.fromkeys(FAMILIES[self.family], 1.0)
        pixels, steps = degrade(crop, mask, rng, weights, strength=(0.35, 1.0))
        return Degraded(pixels, tuple({"degradation": n, "strength": s} for n, s in steps), (self.family,))


def open_degraders(settings: Sequence[DiffusersInpainting]) -> dict[str, Degrader]:
    """By name: inpainting pipelines, or the three model-free families where none is given."""
    if not settings:
        return {family: FamilyDegrader(family) for family in FAMILIES}
    from refine_ops.data.stages.inpaint import DiffusersDegrader

    opened = [DiffusersDegrader(s) for s in settings]
    if len({d.family for d in opened}) < len(opened):
        raise JobError(f"two degraders are both called {[d.family for d in opened]}; name different checkpoints")
    return {d.family: d for d in opened}


def make_versions(
    case_id: str, target: U8Image, shape: Mask, degrader: Degrader, name: str, counts: tuple[int, int], seed: int
) -> list[DegradedVersion]:
    """All versions by one degrader: `counts` = (scribbles, seeds); the same arguments give the same pixels.

    Raises:
        ItemError: no scribble fits the object.
    """
    found = []
    height, width = shape.shape
    for scribble in range(counts[0]):
        mask = scribble_mask(shape, _generator(seed, case_id, scribble), _LIMITS) & shape_box(shape)
        for k in range(counts[1]):
            rng = _generator(seed, case_id, scribble, name, k)
            degraded = degrader.degrade(target, mask, "", rng)
            image, _ = damage(target, mask, degraded.pixels, (0, 0, width, height))
            change = change_over(mask, image, target)
            found.append(DegradedVersion(name, f"s{scribble}k{k}", scribble, mask, image, change))
    return found


def select(versions: Sequence[DegradedVersion], keep: int, band: tuple[float, float]) -> list[DegradedVersion]:
    """The rule of the module's docstring.

    Raises:
        ItemError: fewer than `keep` versions lie in the band.
    """
    fit = sorted((c for c in versions if band[0] <= c.change <= band[1]), key=lambda c: (c.change, c.name))
    if len(fit) < keep:
        changes = [round(c.change, 1) for c in versions]
        raise ItemError(
            "degraded.band", f"{versions[0].degrader}: {len(fit)} of {changes} lie in {band}, {keep} are needed"
        )
    chosen: list[DegradedVersion] = []
    for rank in (np.arange(keep) + 0.5) / keep * len(fit):
        used = {c.scribble for c in chosen}
        left = [(abs(i + 0.5 - rank), i) for i, c in enumerate(fit) if c not in chosen]
        fresh = [(d, i) for d, i in left if fit[i].scribble not in used]
        chosen.append(fit[min(fresh or left)[1]])
    return chosen


def pick(versions: Sequence[DegradedVersion], names: Sequence[str]) -> list[DegradedVersion]:
    """The versions of the given names, chosen by hand.

    Raises:
        JobError: there is no version of that name.
    """
    by_name = {c.name: c for c in versions}
    unknown = [n for n in names if n not in by_name]
    if unknown:
        raise JobError(f"overrides: {versions[0].degrader} has no version {', '.join(unknown)}")
    return [by_name[n] for n in names]


def shape_box(shape: Mask) -> Mask:
    """The object's tight box, filled: M never leaves it, so that the object box holds all that is degraded."""
    box = np.zeros_like(shape)
    rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def _generator(*parts: int | str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
