"""What a calibration is made of."""

from pydantic import Field

from refine_ops.config import RefineSettings, Settings


class CalibrationSettings(Settings):
    """Which cases a gate is fitted on, and what it must promise."""

    cases: str | None = Field(
        "rendered",
        description="A case set (`refine-ops eval build-cases`), 'rendered': made of the training fonts and photos, or "
        "none.",
    )
    rendered: int = Field(
        600,
        ge=2,
        description="How many cases 'rendered' has; every other one has a reference, for `transfer` every one.",
    )
    photos: tuple[str, ...] = Field((), description="Folders with further photos and fonts for 'rendered'.")
    seed: int = 1
    max_harm: float = Field(0.05, gt=0, lt=0.5, description="Most of what is published may be worse.")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    weights: str | None = Field(None, description="Folder with alexnet.safetensors; without LPIPS, PSNR alone decides.")
    allow_hub: bool = False
    per_case: int = Field(2, ge=1, le=50, description="Inputs judged per case, its degraders in turn; cases count.")
    lessons: int = Field(2, ge=0, le=8, description="Kinds of worse results planted per input, to teach the score.")


class CalibrateConfig(CalibrationSettings):
    """The one parameter of `refine-ops calibrate`: cases with a truth, a run's review decisions, or both."""

    out: str = Field(description="Where gate.json, card.md and plot.svg are written; the same folder continues.")
    reviews: tuple[str, ...] = Field((), description="Run folders with review decisions: rejected means worse.")
    refine: RefineSettings = RefineSettings()
    name: str = Field("", description="What the gate is for; empty: the model's name.")
