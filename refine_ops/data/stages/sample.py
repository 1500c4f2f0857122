"""One training sample in memory, and the invariants it must hold before it is written."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import cv2
import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image.paste import PAPER_KERNELS, blend_mask, paste_back
from refine_ops.records import Box, Mask, U8Image

REACH_PX: Final = PAPER_KERNELS.reach_px
"""The light paste-back uses Eq. 8's own kernels, so I and I* differ at most 8 px past M."""


@dataclass(frozen=True, slots=True)
class Sample:
    """(I, I_ref, I*, M, y) with its provenance. `input`, `target`, `mask`, `object_mask` share height and width.

    `allowed` is M_obj dilated: M lies inside. `support` is where the paste-back may have changed pixels.
    """

    setting: Literal["reference", "free"]
    input: U8Image
    target: U8Image
    mask: Mask
    object_mask: Mask
    allowed: Mask
    support: Mask
    object_box: Box
    reference: U8Image | None
    prompt: str
    description: str
    mask_kind: str
    families: tuple[str, ...]
    source_sha256: tuple[str, ...]
    licences: tuple[str, ...]
    degradations: tuple[dict[str, Any], ...]
    scores: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


def damage(target: U8Image, mask: Mask, degraded: U8Image, box: Box) -> tuple[U8Image, Mask]:
    """I and the blend's support, both of the target's size: `degraded` pasted lightly (Eq. 8-9) where M marks `box`.

    `box` holds M and, away from the image's border, `REACH_PX` around it.
    """
    x0, y0, x1, y1 = box
    blend = blend_mask(mask[y0:y1, x0:x1])
    input_, support = target.copy(), np.zeros(mask.shape, bool)
    input_[y0:y1, x0:x1] = paste_back(target[y0:y1, x0:x1], degraded, blend)
    support[y0:y1, x0:x1] = blend > 0
    return input_, support


def change_over(mask: Mask, a: U8Image, b: U8Image) -> float:
    """Mean |a - b| over the mask and the channels, in 1/255."""
    return float(cv2.absdiff(a, b)[mask].mean())


def check(sample: Sample) -> None:
    """Refuse a sample that breaks what training relies on.

    Raises:
        ItemError: `sample.background` (I differs from I* outside the support), `sample.mask_outside` (M leaves the
            dilated object), `sample.unchanged` (I equals I* over M), `sample.empty_mask`, `sample.shape`.
    """
    shape = sample.target.shape
    shapes = {sample.input.shape, shape, *((*m.shape, 3) for m in (sample.mask, sample.object_mask, sample.support))}
    if len(shapes) > 1:
        raise ItemError("sample.shape", f"input, target and masks differ in size: {sorted(shapes)}")
    if not sample.mask.any():
        raise ItemError("sample.empty_mask", "M marks no pixel")
    outside = int((sample.mask & ~sample.allowed).sum())
    if outside:
        raise ItemError("sample.mask_outside", f"{outside} px of M lie outside the dilated object")
    changed = (sample.input != sample.target).any(axis=2)
    leaked = int((changed & ~sample.support).sum())
    if leaked:
        raise ItemError("sample.background", f"{leaked} px differ from the target outside the blend's support")
    if not changed[sample.mask].any():
        raise ItemError("sample.unchanged", "the degradation changed no pixel of M")
