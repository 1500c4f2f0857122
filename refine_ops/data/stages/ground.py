"""Stage 1, ground: where the object is, and what it is called (sections 4.1 i and 4.2 i)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refine_ops.data.config import BoxLimits
from refine_ops.data.source_manifest import SourceRow
from refine_ops.errors import ItemError
from refine_ops.records import Box, U8Image


@dataclass(frozen=True, slots=True)
class Grounded:
    """An object in the target: its box, a short noun phrase, how sure the grounder is (1 for annotations).

    `reference_box` is the same subject in the reference; None means unknown, or no reference.
    """

    box: Box
    description: str
    confidence: float = 1.0
    reference_box: Box | None = None


class Grounder(Protocol):
    """Finds the subject of a pair, or the objects of one image."""

    @property
    def name(self) -> str:
        """Model and version, for provenance."""

    def ground(self, row: SourceRow, target: U8Image, reference: U8Image | None) -> list[Grounded]:
        """At least one object; for a pair exactly one: the subject that both images show.

        Raises:
            ItemError: `ground.*`, or an `AnswerError` with what a model said.
        """


class GivenBoxes:
    """The manifest's annotations."""

    name = "given"

    def ground(self, row: SourceRow, target: U8Image, reference: U8Image | None) -> list[Grounded]:
        if row.box is None:
            raise ItemError("ground.no_box", f"{row.source_id}: no 'box' in the manifest, and grounding is 'given'")
        if not row.description:
            raise ItemError("ground.no_description", f"{row.source_id}: no 'description', and grounding is 'given'")
        check_inside(row.box, target, "box")
        if reference is not None and row.reference_box is not None:
            check_inside(row.reference_box, reference, "reference_box")
        return [Grounded(row.box, row.description, 1.0, row.reference_box if reference is not None else None)]


def check_inside(box: Box, image: U8Image, what: str) -> None:
    """Raises ItemError `ground.invalid_box` for an empty box or one that leaves the image; nothing is clamped."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ItemError("ground.invalid_box", f"{what} {box} does not lie in the image of {width}x{height} px")


def choose(found: list[Grounded], image: U8Image, limits: BoxLimits, rng: np.random.Generator) -> Grounded:
    """One object at random among those that make a task, to vary categories and sizes (section 4.2 i).

    Raises:
        ItemError: `ground.no_usable_box`.
    """
    height, width = image.shape[:2]
    usable = [
        g
        for g in found
        if min(g.box[2] - g.box[0], g.box[3] - g.box[1]) >= limits.min_side_px
        and (g.box[2] - g.box[0]) * (g.box[3] - g.box[1]) <= limits.max_area * width * height
    ]
    if not usable:
        raise ItemError(
            "ground.no_usable_box",
            f"of {len(found)} boxes none has sides >= {limits.min_side_px} px and at most {limits.max_area:.0%} of the "
            f"image: {[g.box for g in found[:5]]}",
        )
    return usable[int(rng.integers(len(usable)))]
