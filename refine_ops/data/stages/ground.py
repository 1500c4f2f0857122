"""Stage 1, ground: where the object is, and what it is called (sections 4.1 i and 4.2 i)."""

import numpy as np

from refine_ops.data.config import BoxLimits
from refine_ops.data.source_manifest import SourceRow
from refine_ops.detect.objects import Grounded, Grounder, check_inside
from refine_ops.errors import ItemError
from refine_ops.records import U8Image


def ground(grounder: Grounder | None, row: SourceRow, target: U8Image, reference: U8Image | None) -> list[Grounded]:
    """The objects of a row: found by `grounder`, or, where it is None, as annotated in the manifest.

    Raises:
        ItemError: `ground.*`, or an `AnswerError` with what a model said.
    """
    if grounder is not None:
        return grounder.ground(target, reference, row.description)
    return [annotated(row, target, reference)]


def annotated(row: SourceRow, target: U8Image, reference: U8Image | None) -> Grounded:
    """The row's own box and description.

    Raises:
        ItemError: `ground.no_box`, `ground.no_description`, `ground.invalid_box`.
    """
    if row.box is None:
        raise ItemError("ground.no_box", f"{row.source_id}: no 'box' in the manifest, and grounding is 'given'")
    if not row.description:
        raise ItemError("ground.no_description", f"{row.source_id}: no 'description', and grounding is 'given'")
    check_inside(row.box, target, "box")
    if reference is not None and row.reference_box is not None:
        check_inside(row.reference_box, reference, "reference_box")
    return Grounded(row.box, row.description, 1.0, row.reference_box if reference is not None else None)


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
