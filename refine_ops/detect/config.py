"""Settings of what finds objects and their masks."""

from typing import Annotated, Literal

from pydantic import Field

from refine_ops.config import AllowHub, PretrainedModel, Settings
from refine_ops.vlm.config import Vlm


class VlmGrounding(Settings):
    """A VLM finds the object (sections 4.1 i and 4.2 i)."""

    kind: Literal["vlm"] = "vlm"
    vlm: Vlm
    coordinates: Literal["thousandths", "pixels"] = Field(
        "thousandths",
        description="What the model was trained to give: thousandths of each side (Gemini, Qwen3-VL) or pixels of the "
        "image as sent (Qwen2.5-VL).",
    )
    min_confidence: float = Field(0.8, ge=0, le=1, description="Pairs below this stated confidence are rejected.")
    verify_crops: bool = Field(True, description="Ask again, on the two crops alone, whether they show one subject.")


class DinoGrounding(Settings):
    """Grounding DINO through transformers, asked for the row's description or else for `labels`."""

    kind: Literal["dino"] = "dino"
    model: PretrainedModel
    allow_hub: AllowHub = False
    labels: tuple[str, ...] = ("text", "logo", "sign", "product", "face", "person")
    threshold: float = Field(0.35, ge=0, le=1)
    text_threshold: float = Field(0.25, ge=0, le=1)


class GrabCutSegmentation(Settings):
    """GrabCut (OpenCV): needs no weights. Ambiguity is how far the result moves with the box."""

    kind: Literal["grabcut"] = "grabcut"
    iterations: int = Field(4, ge=1)
    work_side_px: int = Field(320, ge=32, description="The box's surroundings are segmented at this longer side.")


class SamSegmentation(Settings):
    """SAM 3 (box and text) or SAM 2 (box) through transformers, by the checkpoint's own model type."""

    kind: Literal["sam"] = "sam"
    model: PretrainedModel
    allow_hub: AllowHub = False
    threshold: float = Field(0.3, ge=0, le=1, description="SAM 3: least score of an instance that counts.")


Segmentation = Annotated[GrabCutSegmentation | SamSegmentation, Field(discriminator="kind")]


class SegmentLimits(Settings):
    """Which object masks are taken as one unambiguous instance."""

    max_ambiguity: float = Field(0.35, ge=0, le=1)
    min_box_share: float = Field(0.08, ge=0, le=1, description="Least share of the box that the mask covers.")
    min_inside: float = Field(0.85, ge=0, le=1, description="Least share of the mask that lies in the box.")
    min_largest: float = Field(0.75, ge=0, le=1, description="Least share of the mask in its largest component.")
