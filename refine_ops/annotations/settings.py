"""What a person may say about how annotations are read."""

from typing import Literal

from pydantic import Field

from refine_ops.config import AccessSettings, ImageLimits, Settings

Origin = Literal[0, 1, "edges"]
Orientation = Literal["auto", "upright", "stored"]


class LabelRule(Settings):
    """What becomes of everything with one label; what is not set is as for all others."""

    prompt: str | None = None
    reference: str | None = Field(None, description="As in a manifest: relative ones lie beside it.")
    seed: int | None = Field(None, ge=0)
    paste: Literal["mask", "box"] | None = None
    skip: bool = Field(False, description="Leave what has this label out; it is counted.")


class ImportSettings(Settings):
    """How annotation files become a manifest."""

    images: str = Field(description="Folder or s3:// prefix below which all images lie; nothing outside is read.")
    prompt: str = Field("Refine the {label}", description="Of regions that come with none; {label} is filled in.")
    labels: dict[str, LabelRule] = Field({}, description="By label: prompt, reference, seed, paste, skip.")
    references: str | None = Field(None, description="Folder below which references named in a file are taken from.")
    orientation: Orientation = Field(
        "auto", description="Whether coordinates are of the upright image or of the file as stored (EXIF)."
    )
    annotators: Literal["all", "latest"] = Field("all", description="Where several people annotated one image.")
    predictions: bool = Field(False, description="Where nobody annotated, take what was predicted (Label Studio).")
    rings: Literal["add", "holes"] = Field(
        "add", description="Rings of one outline that overlap: both marked, or holes."
    )
    shape: Literal["drawn", "box"] = Field("drawn", description="'box': of everything its bounding box alone.")
    origin: Origin = Field(
        1, description="Pascal VOC: what the first pixel is called, or 'edges' where corners lie between pixels."
    )
    classes: str | None = Field(None, description="YOLO: file of class names; else data.yaml or classes.txt beside.")
    label_key: str | None = Field(None, description="VIA: the attribute that is the label.")
    access: AccessSettings = AccessSettings()
    limits: ImageLimits = ImageLimits()
