"""Settings of the detectors that look through whole pictures."""

from typing import Annotated, Literal

from pydantic import Field

from refine_ops.config import Settings


class FindText(Settings):
    """Printed text, with rapidocr's bundled models (extra `eval`); works offline. Finds the class `text`."""

    kind: Literal["text"] = "text"
    scales: int = Field(3, ge=1, le=5, description="Sizes searched at most, each half of the one before.")


class FindLike(Settings):
    """Where a reference (a logo, a label, a print) appears; works offline. Finds one class per reference: the name of
    its file without the suffix."""

    kind: Literal["like"] = "like"
    references: str = Field(description="Folder or s3:// prefix of right pictures, or one picture.")
    instances: int = Field(8, ge=1, le=64, description="Of each reference in one picture at most.")
    min_agreement: float = Field(
        0.76, ge=0, le=1, description="Least agreement of the picture with the reference in its pose."
    )
    smallest_px: int = Field(24, ge=12, description="Longer side from which on a reference is found.")


Detector = Annotated[FindText | FindLike, Field(discriminator="kind")]
