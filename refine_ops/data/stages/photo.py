"""The chain from a manifest row to a sample: read -> ground -> segment -> mask -> degrade -> validate -> instruct."""

from typing import Literal

import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.data.config import ManifestSource
from refine_ops.data.plan import PlannedSample
from refine_ops.data.stages.attempt import SampleAttempt
from refine_ops.data.stages.ground import choose, ground
from refine_ops.data.stages.instruct import instruct
from refine_ops.data.stages.load import Stages
from refine_ops.data.stages.masks import dilated, draw_region
from refine_ops.data.stages.read import read_pair
from refine_ops.data.stages.sample import Sample, damage
from refine_ops.data.stages.validate import validate
from refine_ops.detect.objects import Grounded
from refine_ops.detect.segment import Segmented, accept
from refine_ops.errors import ItemError
from refine_ops.image.focus import crop_of
from refine_ops.image.region import tight_box
from refine_ops.records import Box, Mask, U8Image
from refine_ops.vlm.questions import Usage

_STREAMS = ("ground", "mask", "degrade", "validate", "instruct")
"""One generator per stage, so that a stage that draws more or less moves no other."""
_REFERENCE_CONTEXT = 0.1
"""How much of the subject's surroundings a cropped reference keeps, in box sides."""


class PhotoMaker:
    """Implements `Maker` for a manifest."""

    def __init__(self, source: ManifestSource, stages: Stages, limits: ImageLimits) -> None:
        self._source, self._stages, self._limits = source, stages, limits
        self._latest: tuple[tuple[str, Box], Segmented | ItemError] | None = None

    @property
    def usage(self) -> Usage:
        return self._stages.usage

    def make(self, planned: PlannedSample, attempt: SampleAttempt) -> Sample:
        source, stages = self._source, self._stages
        rngs = dict(zip(_STREAMS, np.random.default_rng(planned.seed).spawn(len(_STREAMS)), strict=True))
        with attempt.enter("read"):
            row, target, reference = read_pair(planned, self._limits, source.max_side_px)
        setting: Literal["reference", "free"] = "free" if reference is None else "reference"
        with attempt.enter("ground"):
            found = choose(ground(stages.grounder, row, target, reference), target, source.boxes, rngs["ground"])
        with attempt.enter("segment"):
            segmented = self._segment(planned.image_sha256, target, found)
        with attempt.enter("mask"):
            kind, mask = draw_region(segmented.mask, source.masks, rngs["mask"])
        attempt.images.update(target=target, mask=mask)
        with attempt.enter("degrade"):
            near = _around(mask, source.margin)
            degrader = stages.draw_degrader(rngs["degrade"])
            clean = np.ascontiguousarray(crop_of(target, near))
            marked = np.ascontiguousarray(crop_of(mask, near))
            damaged = degrader.degrade(clean, marked, found.description, rngs["degrade"])
            input_, support = damage(target, mask, damaged.pixels, near)
        attempt.images.update(input=input_)
        with attempt.enter("validate"):
            shown = np.ascontiguousarray(crop_of(input_, near))
            scores = validate(
                source.validation, stages.validator, shown, clean, marked, found.description, rngs["validate"]
            )
        with attempt.enter("instruct"):
            prompt = instruct(found.description, setting, source.instruct, rngs["instruct"])
            crop_it = bool(rngs["instruct"].random() < source.instruct.reference_crop)
        return Sample(
            setting=setting,
            input=input_,
            target=target,
            mask=mask,
            object_mask=segmented.mask,
            allowed=dilated(segmented.mask),
            support=support,
            object_box=found.box,
            reference=_shown_reference(reference, found, crop_it),
            prompt=prompt,
            description=found.description,
            mask_kind=kind,
            families=tuple(dict.fromkeys((*row.families, *damaged.families))),
            source_sha256=tuple(h for h in (planned.image_sha256, planned.reference_sha256) if h),
            licences=(row.licence,),
            degradations=damaged.steps,
            scores=scores | _confidences(found, segmented),
            models=stages.names | {"degrade": degrader.name},
        )

    def _segment(self, sha256: str, target: U8Image, found: Grounded) -> Segmented:
        """The object's mask, or why there is none; the samples of one object follow each other and share it."""
        key = sha256, found.box
        if self._latest is None or self._latest[0] != key:
            try:
                self._latest = key, self._stages.segmenter.segment(target, found.box, found.description)
            except ItemError as e:
                self._latest = key, e
        segmented = self._latest[1]
        if isinstance(segmented, ItemError):
            raise segmented
        accept(segmented, found.box, self._source.segment_limits)
        return segmented


def _confidences(found: Grounded, segmented: Segmented) -> dict[str, float]:
    values = {"grounding": found.confidence, "segmentation": segmented.score, "ambiguity": segmented.ambiguity}
    return {name: round(value, 4) for name, value in values.items()}


def _around(mask: Mask, margin_px: int) -> Box:
    """M's tight box with its margin, clipped to the image."""
    x0, y0, x1, y1 = tight_box(mask)
    height, width = mask.shape
    return max(0, x0 - margin_px), max(0, y0 - margin_px), min(width, x1 + margin_px), min(height, y1 + margin_px)


def _shown_reference(reference: U8Image | None, found: Grounded, crop_it: bool) -> U8Image | None:
    """The reference as a user would give it: whole, or cropped to its subject where the subject's box is known."""
    if reference is None or found.reference_box is None or not crop_it:
        return reference
    x0, y0, x1, y1 = found.reference_box
    dx, dy = round(_REFERENCE_CONTEXT * (x1 - x0)), round(_REFERENCE_CONTEXT * (y1 - y0))
    return np.ascontiguousarray(reference[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx])
