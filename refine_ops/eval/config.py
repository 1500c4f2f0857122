"""Settings of the evaluation: `RefineEvalConfig` is the one parameter of the flow `refine-eval`."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from refine_ops.config import ImageLimits, ModelSettings, PatchSettings, RefineSettings, Settings, renamed
from refine_ops.data.config import DiffusersInpainting
from refine_ops.vlm.config import Vlm

_Around = TypeVar("_Around", bound=PatchSettings)

Control = Literal["identity", "ground-truth", "blurred-crop", "re-encode", "damaged", "blank", "transfer"]
Name = Annotated[str, Field(min_length=1, max_length=80, description="Heads the method's rows in every table.")]


class RefinerMethod(Settings):
    """This package's refiner: a preset or model folder, with or without adapters."""

    kind: Literal["refiner"] = "refiner"
    name: Name
    refine: RefineSettings = Field(
        RefineSettings(),
        validate_default=True,
        description="As in refine-batch, but every result is measured, as nothing is published here: no gate, one "
        "candidate. write.allow_unchanged is true unless given: a region left as it is is a result; false: a failure.",
    )
    ablation: bool = Field(False, description="Belongs to Table 3 (ablations) rather than to Tables 1 and 2.")

    @field_validator("refine")
    @classmethod
    def _nothing_is_judged(cls, refine: RefineSettings) -> RefineSettings:
        plain = RefineSettings()
        asked = [name for name in ("candidates", "stop", "read_text") if getattr(refine, name) != getattr(plain, name)]
        if asked:
            raise ValueError(
                f"an evaluation measures every result, whatever a gate would say of it: leave out {', '.join(asked)}"
            )
        return refine

    @field_validator("refine")
    @classmethod
    def _unchanged_is_a_result(cls, refine: RefineSettings) -> RefineSettings:
        if "allow_unchanged" in refine.write.model_fields_set:
            return refine
        return refine.model_copy(update={"write": refine.write.model_copy(update={"allow_unchanged": True})})


class PipelineMethod(Settings):
    """An editor on the whole image, as a baseline; with focus it is a refiner method."""

    kind: Literal["pipeline"] = "pipeline"
    name: Name
    model: str = Field(description="Preset of an editor, folder in diffusers' layout, or a hub name with allow_hub.")
    pipeline: str | None = Field(None, description="Class of diffusers, where the weights name another one.")
    licence: Literal["accepted"] | None = Field(None, description="As the model's setting of that name.")
    allow_hub: bool = False
    steps: int = Field(28, ge=1, le=200)
    true_cfg_scale: float | None = Field(None, ge=1, description="For pipelines that take it (Qwen-Image-Edit).")
    guidance_scale: float | None = Field(None, ge=0, description="For pipelines that take it (Kontext).")
    pixels: int | None = Field(None, gt=0, description="Area of the generated image, for pipelines that take a size.")
    reference: bool = Field(False, description="Pass the reference as a second image (Qwen-Image-Edit-Plus takes it).")
    prompt: str = Field("{instruction}", description="What is asked; {instruction} is the case's instruction.")
    seed: int = 0

    @property
    def editor_settings(self) -> ModelSettings:
        """As a refiner would have them."""
        return ModelSettings(
            model=self.model,
            pipeline=self.pipeline,
            licence=self.licence,
            allow_hub=self.allow_hub,
            steps=self.steps,
            true_cfg_scale=self.true_cfg_scale,
            guidance_scale=self.guidance_scale,
        )


class FolderMethod(Settings):
    """Outputs made elsewhere (closed models): `FOLDER/<input_id>.<suffix>`, at the size of the input."""

    kind: Literal["folder"] = "folder"
    name: Name
    folder: str = Field(description="Local folder or s3:// prefix.")
    resize: bool = Field(False, description="Resample outputs of another size (many closed models change it).")


class EndpointMethod(Settings):
    """A closed model behind an OpenAI-compatible `images/edits` endpoint, on the whole image.

    URL, key and model come from `REFINE_IMAGES_BASE_URL`, `REFINE_IMAGES_API_KEY` and `REFINE_IMAGES_MODEL`; the key
    from nowhere else. What was answered once is not asked for, nor paid, again.
    """

    kind: Literal["endpoint"] = "endpoint"
    name: Name
    base_url: str | None = Field(None, description="Overrides REFINE_IMAGES_BASE_URL, e.g. https://host/v1.")
    model: str | None = Field(None, description="Overrides REFINE_IMAGES_MODEL.")
    sizes: tuple[tuple[int, int], ...] = Field(
        ((1024, 1024), (1536, 1024), (1024, 1536)),
        min_length=1,
        description="What the model makes, (width, height); the nearest in ratio is asked for.",
    )
    mask: bool = Field(True, description="Send the region as a mask: transparent where the image is to change.")
    reference: bool = Field(True, description="Send the reference as a second image.")
    prompt: str = Field("{instruction}", description="What is asked; {instruction} is the case's instruction.")
    extra: dict[str, str | int | float | bool] = Field({}, description="Further form fields, e.g. quality or seed.")
    timeout_s: float = Field(300.0, gt=0, description="One request, from connecting to the last byte.")
    requests: int = Field(6, ge=1, description="Requests per image before the endpoint counts as down.")
    backoff_s: float = Field(1.0, ge=0, description="First pause after 429 or 5xx; doubles, Retry-After is honoured.")
    cache: str | None = Field(None, description="Folder of cached answers (local or s3://); default: the user's cache.")
    usd_per_image: float | None = Field(None, ge=0, description="Only labels the cost; without it none is stated.")


class ControlMethod(Settings):
    """A method whose rank is known beforehand; the sanity checks of VLM grades are among them."""

    kind: Literal["control"] = "control"
    name: Name
    control: Control


MethodConfig = Annotated[
    RefinerMethod | PipelineMethod | FolderMethod | EndpointMethod | ControlMethod, Field(discriminator="kind")
]

CONTROLS: tuple[ControlMethod, ...] = (
    ControlMethod(name="ground truth", control="ground-truth"),
    ControlMethod(name="input as it is", control="identity"),
    ControlMethod(name="blurred crop pasted", control="blurred-crop"),
    ControlMethod(name="whole image re-encoded", control="re-encode"),
)
TRANSFERRED = ControlMethod(name="reference transferred, no network", control="transfer")
"""What a network must add to; its rank is not known beforehand."""
GRADE_CONTROLS: tuple[ControlMethod, ...] = (
    ControlMethod(name="damaged further", control="damaged"),
    ControlMethod(name="region blanked", control="blank"),
)
"""What must be graded low; graded beside the methods whenever there are grades."""


def without_focus(settings: _Around) -> _Around:
    """The same with Focus-and-Refine switched off: the crop is the whole image, at the same pixel budget."""
    return settings.model_copy(update={"focus": settings.focus.switched_off()})


class MetricSettings(Settings):
    """Where metrics find their models; one without weights is reported as missing."""

    weights: str | None = Field(None, description="Folder of alexnet.safetensors and vgg16.safetensors.")
    dino: str = Field("facebook/dinov2-large", description="Folder, or a hub name with allow_hub.")
    clip: str = Field("openai/clip-vit-large-patch14-336", description="Folder, or a hub name with allow_hub.")
    allow_hub: bool = Field(False, description="Allow the download of the weights named here.")
    text: bool = Field(True, description="Read the text of text cases (rapidocr, on the CPU).")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class GraderSettings(Settings):
    """The VLM that grades reference-free inputs (Table 2)."""

    vlm: Vlm
    repeats: int = Field(3, ge=1, le=20, description="Askings per input; the score is their mean.")
    temperature: float = Field(0.7, ge=0, le=2, description="Of every asking; at 0 the repeats are copies of one.")
    expand: float = Field(0.25, ge=0, le=2, description="The object box grown by this share of its sides on each side.")
    order_check: bool = Field(True, description="Ask once more with the two images in the other order.")
    reference_based: bool = Field(False, description="Score inputs with a reference as well.")


class BuildCasesConfig(Settings):
    """How degraded inputs are made from clean, annotated images."""

    annotations: str = Field("mini", description="Folder with annotations.jsonl, or 'mini': RefineEval-mini.")
    out: str = Field(description="Where the case set is written.")
    degraders: tuple[DiffusersInpainting, ...] = Field(
        (), description="Inpainting pipelines, one degrader each; none: three model-free families."
    )
    scribbles: int = Field(5, ge=1, le=50, description="Random masks per degrader (the paper: 5).")
    seeds: int = Field(3, ge=1, le=50, description="Seeds per mask (the paper: 3).")
    keep: int = Field(2, ge=1, le=50, description="Inputs kept per degrader (the paper: 2).")
    min_change: float = Field(4.0, ge=0, description="Least mean |I - I*| over M, in 1/255: below, no visible defect.")
    max_change: float = Field(72.0, gt=0, description="Largest mean |I - I*| over M: above, unrecognisable.")
    overrides: str | None = Field(
        None, description='JSON of versions kept by hand: {"case/degrader": ["s0k1", "s3k2"]}; see candidates/*.png.'
    )
    only: tuple[str, ...] = Field((), description="Case ids to build; none: all.")
    seed: int = 0

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.keep > self.scribbles * self.seeds:
            raise ValueError(f"keep {self.keep} of {self.scribbles} x {self.seeds} versions is impossible")
        if self.min_change >= self.max_change:
            raise ValueError(f"min_change {self.min_change} must be below max_change {self.max_change}")
        return self


class RefineEvalConfig(Settings):
    """The one parameter of the flow `refine-eval`."""

    cases: str = Field("mini", description="Folder of a case set, or 'mini': RefineEval-mini, built under OUT/cases.")
    out: str = Field(description="Results folder, local or s3://; the same folder continues.")
    methods: tuple[MethodConfig, ...] = (
        RefinerMethod(name="refine-ops tiny"),
        RefinerMethod(name="refine-ops tiny, without focus", refine=without_focus(RefineSettings()), ablation=True),
        TRANSFERRED,
        *CONTROLS,
    )
    setting: Literal["both", "reference", "free"] = "both"
    limit: int | None = Field(None, ge=1, description="Evaluate only the first N cases.")
    metrics: MetricSettings = MetricSettings()
    grader: GraderSettings | None = Field(None, description="None: Table 2 is not scored.")
    primary: str = Field("lpips_alex", description="Orders the gallery; mse takes its place where it is missing.")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(4000, ge=200, description="Bootstrap resamples.")
    gallery: int = Field(24, ge=0, le=500, description="Inputs per method in the gallery, worst and best.")
    limits: ImageLimits = ImageLimits()

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        return renamed(values, "judge", "grader")

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [m.name for m in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"method names must differ; got {names}")
        return self

    @property
    def all_methods(self) -> tuple[MethodConfig, ...]:
        """The methods and, with VLM grades, the controls that show whether they can be believed."""
        if self.grader is None:
            return self.methods
        present = {m.control for m in self.methods if isinstance(m, ControlMethod)}
        return (*self.methods, *(c for c in GRADE_CONTROLS if c.control not in present))


class VaeCropConfig(Settings):
    """The observation behind Focus-and-Refine (Fig. 3), on any VAE."""

    model: str = Field("tiny", description="'tiny', a pipeline or VAE folder in diffusers' layout, or a hub name.")
    allow_hub: bool = False
    out: str = Field(description="Folder of table.md, table.json and plot.svg.")
    images: str | None = Field(None, description="Folder of images; none: the bundled photos.")
    pixels: int | None = Field(None, gt=0, description="Budget of one encoding; default: the preset's, else 1024^2.")
    shares: tuple[float, ...] = Field((0.1, 0.15, 0.2, 0.3, 0.5, 0.75), description="Region side / image side.")
    regions: int = Field(6, ge=1, description="Random regions per image and size.")
    seed: int = 0
    limits: ImageLimits = ImageLimits()

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if not self.shares or not all(0 < s <= 1 for s in self.shares):
            raise ValueError(f"shares must lie in (0, 1]; got {self.shares}")
        return self
