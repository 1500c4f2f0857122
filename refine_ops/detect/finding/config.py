"""Settings of the detectors that look through whole pictures."""

from typing import Literal

from pydantic import Field

from refine_ops.config import Settings


class FindText(Settings):
    """Printed text, with rapidocr's bundled models (extra `eval`); works offline. Finds the class `text`."""

    kind: Literal["text"] = "text"
    scales: int = Field(3, ge=1, le=5, description="Sizes searched at most, each half of the one before.")


Detector = FindText
