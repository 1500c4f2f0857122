"""Settings of the dataset builder: the one parameter of the flow `build-dataset`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from refine_ops.config import AccessSettings, AllowHub, ImageLimits, PretrainedModel, Settings
from refine_ops.detect.config import (
    DinoGrounding,
    GrabCutSegmentation,
    Segmentation,
    SegmentLimits,
    VlmGrounding,
)
from refine_ops.vlm.config import Vlm

Language = Literal["en", "zh", "de", "es", "fr", "ja"]
MaskKind = Literal["scribble", "box", "object"]


class GivenGrounding(Settings):
    """Boxes and descriptions stand in the manifest (annotations)."""

    kind: Literal["given"] = "given"


Grounding = Annotated[GivenGrounding | VlmGrounding | DinoGrounding, Field(discriminator="kind")]


class BoxLimits(Settings):
    """Which boxes make a task: neither specks nor the whole picture."""

    min_side_px: int = Field(16, ge=4)
    max_area: float = Field(0.9, gt=0, le=1, description="Largest share of the image.")


class MaskSettings(Settings):
    """M: strokes, boxes and whole objects, all inside the dilated object mask (section 4.1 iii)."""

    scribble: float = Field(0.7, ge=0, description="Relative frequency of free-form strokes.")
    box: float = Field(0.15, ge=0, description="Relative frequency of rectangles inside the dilated object.")
    object: float = Field(0.15, ge=0, description="Relative frequency of the whole object.")
    least_area: float = Field(0.1, gt=0, le=1, description="Least share of the dilated object under strokes or a box.")
    most_area: float = Field(0.9, gt=0, le=1, description="Largest share of it.")
    most_parts: int = Field(3, ge=1, description="Most separate parts of a scribble.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scribble + self.box + self.object <= 0:
            raise ValueError("masks: scribble, box and object are all 0; give at least one a weight")
        if self.least_area >= self.most_area:
            raise ValueError(f"masks: least_area {self.least_area} must be below most_area {self.most_area}")
        return self


class ModelFree(Settings):
    """Degradations that need no weights (`refine_ops.data.stages.damages`)."""

    kind: Literal["model-free"] = "model-free"
    weight: float = Field(1.0, gt=0)
    mix: dict[str, float] | None = Field(None, description="Degradation: relative frequency; default all alike.")
    least_strength: float = Field(0.2, ge=0, le=1)
    most_strength: float = Field(1.0, ge=0, le=1)
    most_steps: int = Field(2, ge=1, description="Up to this many, one after another.")


class DiffusersInpainting(Settings):
    """`Inpaint(I*, M)` (Eq. 12) with a diffusers inpainting pipeline: FLUX.1-Fill, SDXL, Qwen-Image-Edit, any other."""

    kind: Literal["diffusers"] = "diffusers"
    weight: float = Field(1.0, gt=0)
    model: PretrainedModel
    allow_hub: AllowHub = False
    steps: int = Field(28, ge=1)
    guidance: float | None = Field(None, description="guidance_scale or true_cfg_scale; default is the pipeline's.")
    strength: float | None = Field(None, gt=0, le=1, description="Default is the pipeline's own.")
    pixels: int = Field(1 << 20, ge=256, description="Pixel budget of the crop the pipeline sees.")
    grid_px: int = Field(32, ge=1, description="Sizes are multiples of this.")
    prompt: str = Field("{object}", description="What to paint; {object} is the object's description.")


DegraderConfig = Annotated[ModelFree | DiffusersInpainting, Field(discriminator="kind")]


class BandSettings(Settings):
    """How much a degradation must change M to be a task, and how little to stay one: what needs no VLM."""

    min_change: float = Field(1.5, ge=0, description="Least mean |I - I*| over M, in 1/255: below, no defect.")
    max_change: float = Field(96.0, gt=0, le=255, description="Largest mean |I - I*| over M: above, unrecognisable.")

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.min_change >= self.max_change:
            raise ValueError(f"validation: min_change {self.min_change} must be below max_change {self.max_change}")
        return self


class ValidateSettings(BandSettings):
    """The band and, where a VLM is given, its two questions (section 4.2 iii)."""

    vlm: Vlm | None = None
    control_share: float = Field(0.05, ge=0, le=1, description="Samples whose clean crop is also asked about.")


class InstructSettings(Settings):
    """The instruction y (sections 4.1 iv and 4.2 iv)."""

    languages: dict[Language, float] = Field({"en": 1.0}, min_length=1, description="Language: weight.")
    reference_crop: float = Field(0.5, ge=0, le=1, description="Share of references cropped to their subject.")


class SyntheticSource(Settings):
    """Rendered marks on bundled photos; needs neither network nor weights."""

    kind: Literal["synthetic"] = "synthetic"
    count: int = Field(2000, ge=1)
    size_px: int = Field(128, ge=32, le=2048)
    reference_share: float = Field(2 / 3, ge=0, le=1, description="Refine-30K has 20K of 30K.")
    pose: tuple[float, float] = Field((0.0, 1.0), description="Range of the reference's pose: 0 the target's own.")
    least_strength: float = Field(0.2, ge=0, le=1, description="Mildest degradation.")
    assets: tuple[str, ...] = Field((), description="Local folders with more fonts and photos.")
    validation: BandSettings = BandSettings()


class ManifestSource(Settings):
    """Images, or image pairs, listed in a manifest (`refine_ops.data.source_manifest`)."""

    kind: Literal["manifest"] = "manifest"
    manifest: str = Field(description="Parquet, JSONL or CSV; local path, file:// or s3://.")
    samples_per_row: int = Field(1, ge=1, le=1000)
    margin: int = Field(64, ge=8, description="Margin around M of the crop that is degraded and validated, native px.")
    max_side_px: int | None = Field(None, ge=64, description="Shrink longer images; by default sizes are kept.")
    ground: Grounding = GivenGrounding()
    boxes: BoxLimits = BoxLimits()
    segment: Segmentation = GrabCutSegmentation()
    segment_limits: SegmentLimits = SegmentLimits()
    masks: MaskSettings = MaskSettings()
    degrade: tuple[DegraderConfig, ...] = Field((ModelFree(),), min_length=1)
    validation: ValidateSettings = ValidateSettings()
    instruct: InstructSettings = InstructSettings()


SourceConfig = Annotated[SyntheticSource | ManifestSource, Field(discriminator="kind")]


class BuildDatasetConfig(Settings):
    """The one parameter of the flow `build-dataset`.

    `workers` changes neither the samples nor a byte of them; every other setting is part of the set's fingerprint.
    """

    out: str = Field(description="Dataset folder, local or s3://. The same folder resumes.")
    source: SourceConfig = SyntheticSource()
    seed: int = Field(0, ge=0, lt=1 << 63)
    exclude: tuple[str, ...] = Field((), description="Style and degradation families held out of this set, by name.")
    validation_share: float = Field(0.1, ge=0, lt=1, description="Share of source images whose samples validate.")
    samples_per_part: int = Field(64, ge=1, description="Unit of resume: samples tried per Parquet part.")
    workers: int = Field(1, ge=1, le=256, description="Processes; each loads its own models (GPUs in turn).")
    access: AccessSettings = AccessSettings()
    limits: ImageLimits = ImageLimits()
