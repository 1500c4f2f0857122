"""Settings of the flow `detect-regions`: where the images are, what is looked for, what becomes of what is found."""

import string
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from refine_ops.config import AccessSettings, ImageLimits, Settings
from refine_ops.detect.finding.config import Detector, FindText
from refine_ops.records import PastePolicy

Only = Literal["all", "damaged"]
_FIELDS: Final = {"text", "class"}


class Rule(Settings):
    """What becomes of one class of detections: which are kept, and what the manifest says of them."""

    prompt: str = Field("Refine the {class}.", description="{text}: what was read; {class}: the class's name.")
    unsure_prompt: str | None = Field(
        None, description="Instead of `prompt` where the text was read with less than `sure`: it may be misread."
    )
    sure: float = Field(0.9, ge=0, le=1, description="Least legibility at which {text} is believed.")
    reference: str | None = Field(
        None, description="A picture that all regions are shown beside; else the detection's own, if it has one."
    )
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    paste: PastePolicy | None = Field(None, description="'mask' or 'box', as in a manifest.")
    min_score: float = Field(0.0, ge=0, le=1, description="Least score of the detector.")
    min_side_px: int = Field(12, ge=1, description="Least shorter side.")
    max_side_px: int | None = Field(None, ge=1, description="Largest longer side.")
    min_share: float = Field(0.0, ge=0, le=1, description="Least share of the image's area.")
    max_share: float = Field(0.6, gt=0, le=1, description="Largest share of the image's area.")
    only: Only | None = Field(None, description="'damaged': what its evidence says is damaged; default: as `only`.")
    damage: float = Field(
        0.5, ge=0, le=1, description="With only 'damaged': least probability of damage that counts as damaged."
    )
    merge: float | None = Field(
        None, ge=0, le=10, description="Regions nearer than this, in shorter sides of the smaller one, become one."
    )
    margin: float = Field(
        0.1, ge=-0.4, le=2, description="Added on every side, as a share of the shorter side; below 0: taken away."
    )
    most: int = Field(32, ge=1, le=256, description="Regions of this class in one image at most; the best by score.")

    @field_validator("prompt", "unsure_prompt")
    @classmethod
    def _known_fields(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            named = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
        except ValueError as e:
            raise ValueError(f"prompt {value!r}: {e}; a brace that is meant is written twice") from e
        if unknown := named - _FIELDS:
            raise ValueError(f"prompt {value!r} asks for {sorted(unknown)}; there are {{text}} and {{class}}")
        if not value.strip():
            raise ValueError("a prompt says what to refine; it is empty")
        return value


DEFAULT_RULES: Final = {
    "text": Rule(
        prompt='Refine the text "{text}".',
        unsure_prompt="Refine the text.",
        min_score=0.45,
        min_side_px=16,
        merge=0.6,
        margin=0.15,
    ),
    # A reference is brought into the region's pose by what lies around the region: its edge is left out for that.
    "like": Rule(prompt="Refine the {class} using the reference.", max_share=1.0, margin=-0.15),
}
"""By detector, where no rule is given for what it finds."""


class DetectRegionsConfig(Settings):
    """The one parameter of the flow `detect-regions`.

    `workers` changes neither what is found nor a byte of the manifest; the rest is part of the folder's fingerprint.
    """

    source: str = Field(
        description="Folder or s3:// prefix of images; or a list of them (Parquet, JSONL, CSV: image, and item_id, "
        "category)."
    )
    out: str = Field("detected", description="Folder, local or s3://. The same folder resumes.")
    include: tuple[str, ...] = Field((), description="Only images whose path below the source matches, e.g. shoes/*.")
    exclude: tuple[str, ...] = Field((), description="Images that are left out, likewise.")
    limit: int | None = Field(None, ge=1, description="Only the first N images.")
    detectors: tuple[Detector, ...] = Field((FindText(),), min_length=1, description="What is looked for.")
    rules: dict[str, Rule] = Field(
        {}, description="By class, or by a detector's name for all that it finds; default: one rule per detector."
    )
    only: Only = Field("all", description="'damaged': only regions whose evidence says that they need refining.")
    overlap: float = Field(
        0.6, gt=0, le=1, description="A region that shares so much of itself with a better one is left out."
    )
    max_regions: int = Field(64, ge=1, le=256, description="Regions of one image at most; the best by score.")
    workers: int | None = Field(None, ge=1, le=256, description="Processes; default one per core.")
    part_images: int = Field(64, ge=1, le=4096, description="Unit of resume: images per part.")
    access: AccessSettings = AccessSettings()
    limits: ImageLimits = ImageLimits()

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        names = [repr(detector) for detector in self.detectors]
        if len(set(names)) < len(names):
            raise ValueError("detectors: the same one is named twice; name each once")
        return self
