"""Settings of the LoRA training, the one parameter of the flow `train-lora`; defaults are the paper's (3.3-3.4)."""

from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from refine_ops.config import (
    CropGeometry,
    ImageLimits,
    ModelSettings,
    PasteSettings,
    PatchSettings,
    Settings,
    renamed,
)
from refine_ops.eval.config import MetricSettings
from refine_ops.eval.gates.config import CalibrationSettings
from refine_ops.records import PastePolicy


class LoraSettings(Settings):
    """What is trained: low-rank updates of attention projections."""

    rank: int = Field(256, ge=1, le=1024)
    alpha: int = Field(256, ge=1, description="The update is scaled by alpha / rank.")
    text_stream: bool = Field(False, description="Also the text stream's add_{q,k,v}_proj and to_add_out.")


class LossSettings(Settings):
    """Boundary Consistency (Eq. 10-11) over the flow-matching loss."""

    boundary_alpha: float = Field(9.0, ge=0, description="Weight alpha of the band (Eq. 11); 0 is Table 3's ablation.")
    dilate_px: int = Field(16, ge=1, description="Kernel size r_out (Eq. 10), in model pixels of a 1024^2 crop.")
    erode_px: int = Field(16, ge=1, description="Kernel size r_in (Eq. 10), in model pixels of a 1024^2 crop.")
    sigma: Literal["uniform", "logit-normal"] = Field("uniform", description="Density of the noise level; uniform: t.")
    logit_mean: float = Field(0.0, description="Mean of logit(sigma) for 'logit-normal'.")
    logit_std: float = Field(1.0, gt=0)
    shift: float = Field(
        1.0, gt=0, description="s: sigma becomes s*sigma / (1 + (s-1)*sigma). Large for few-step bases: 1000 for tiny."
    )
    weighting: Literal["none", "cosmap"] = Field(
        "none", description="Factor on each sample's loss; 'cosmap' is SD3's 2 / (pi * (1 - 2*sigma + 2*sigma^2))."
    )


class OptimizerSettings(Settings):
    """AdamW with a constant rate."""

    name: Literal["adamw", "adamw8bit"] = Field("adamw", description="'adamw8bit' needs bitsandbytes and a GPU.")
    learning_rate: float = Field(2e-4, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up; then constant.")
    max_grad_norm: float | None = Field(None, gt=0, description="Clip the gradient's norm; the paper names none.")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="Average the adapter's weights; the paper does not.")


class CropSettings(Settings):
    """How samples become focus crops, and how they are varied."""

    focus: bool = Field(True, description="False: the whole image instead of the focus crop (Table 3's ablation).")
    geometry: CropGeometry = CropGeometry()
    paste: PasteSettings = Field(PasteSettings(), description="Its support is what sparse targets denoise.")
    paste_policy: PastePolicy = Field(
        "mask", description="As regions will say: the marked pixels, or all of their box."
    )
    variants: int = Field(1, ge=1, le=64, description="Cached versions of each sample; jitter draws one each.")
    margin_jitter: float = Field(0.0, ge=0, lt=1, description="The margin is scaled by up to 1 +- this.")
    region_jitter_px: int = Field(0, ge=0, description="The region is dilated by up to this many image pixels.")
    reference_dropout: float = Field(0.0, ge=0, le=1, description="Share of reference-based draws without reference.")


class RunSettings(Settings):
    """How long, how wide, what is kept."""

    steps: int = Field(20_000, ge=1, description="Optimizer steps.")
    batch_size: int = Field(8, ge=1, description="Samples per optimizer step, over all ranks.")
    micro_batch: int = Field(
        1, ge=1, description="Samples per forward pass; they share shapes and noise level. Above 8k tokens 1 is best."
    )
    text_multiple: int = Field(
        1, ge=1, description="Texts are padded to multiples of this to share a micro-batch; 1: equal lengths, no mask."
    )
    reference_share: float | None = Field(
        2 / 3, ge=0, le=1, description="Share of reference-based draws (the paper's 20K of 30K); None: as in the data."
    )
    checkpointing: Literal["block", "selective", "none"] = Field(
        "block", description="What is recomputed in the backward pass: whole blocks, all but attention, or nothing."
    )
    sharding: Literal["none", "fsdp2"] = Field("none", description="'fsdp2' splits the frozen weights over the ranks.")
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    validate_every: int = Field(500, ge=1)
    validation_items: int = Field(32, ge=0, description="Held-out samples whose loss is measured; 0: none.")
    sigma_buckets: int = Field(5, ge=1, le=50)
    grid_items: int = Field(4, ge=0, description="Held-out samples that are refined and drawn at each validation.")
    loss_limit: float = Field(20.0, gt=1, description="Stop where the loss exceeds this many times its recent median.")
    tracker: Literal["tensorboard", "none"] = "tensorboard"
    save_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Of the finished adapter.")
    loader_workers: int = Field(2, ge=0, description="Processes that read the cache, per rank.")
    processes: int | None = Field(None, ge=1, description="Ranks on this node; default one per GPU, 1 on CPU.")


class PromotionSettings(Settings):
    """When a new adapter replaces the incumbent: both refine the same held-out cases, compared in pairs."""

    cases: str = Field("mini", description="Folder of a case set (refine-eval build), or 'mini': RefineEval-mini.")
    limit: int | None = Field(None, ge=1, description="Only the first N cases.")
    metric: str = Field("psnr_mask", description="Primary metric of refine-eval.")
    delta: float = Field(0.0, ge=0, description="Promote if the 95 % lower bound of the metric's gain is above -delta.")
    de00_delta: float = Field(0.25, ge=0, description="The same for the raw tone shift of known pixels, CIEDE2000.")
    shift_delta: float = Field(0.1, ge=0, description="The same for the raw displacement of known pixels, native px.")
    min_cases: int = Field(12, ge=2, description="Fewer cases than this never promote.")
    power: float = Field(0.8, gt=0, lt=1, description="Of the statement how many cases a decision takes.")
    refine: PatchSettings = Field(PatchSettings(), description="How held-out cases are refined around the model.")
    metrics: MetricSettings = MetricSettings(text=False)
    calibrate: CalibrationSettings | None = Field(
        None,
        description="Fit a gate for a version that would be promoted, kept beside it; one whose gate publishes less "
        "than the incumbent's is not promoted. None: no gate is fitted, and fixed rules hold what is worse.",
    )


FINGERPRINT: Final = "{fingerprint}"


_OF_EDITORS: Final = ("pipeline", "guidance_scale", "strength", "licence")


class TrainLoraConfig(Settings):
    """The one parameter of the flow `train-lora`.

    `model` is the base: its own adapters, if any, are fused and stay frozen. `model.targets`, `model.mask_image` and
    `model.mask_pixels` are trained as they will be run, and are written into the adapter's metadata.
    """

    dataset: str = Field(description="Folder that build-dataset wrote, local or s3://.")
    out: str = Field(
        description="Run folder (local). The same folder resumes; '{fingerprint}' in it stands for data, settings and "
        "weights."
    )
    cache: str | None = Field(
        None, description="Folder of encoded samples (local); default: `cache/` in the run folder."
    )
    model: ModelSettings = ModelSettings(model="qwen-image-edit-2509")
    targets: Literal["preset", "mixed"] = Field(
        "preset", description="'preset': as model.targets says; 'mixed': half the draws dense, half sparse."
    )
    exclude: tuple[str, ...] = Field((), description="Families of samples left out of training, by name.")
    lora: LoraSettings = LoraSettings()
    loss: LossSettings = LossSettings()
    crop: CropSettings = CropSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()
    registry: str | None = Field(None, description="Adapter registry, local or s3://; None: nothing is promoted.")
    label: str = Field("adapter", description="Prefix of the version's name in the registry.")
    promotion: PromotionSettings = PromotionSettings()
    limits: ImageLimits = ImageLimits()
    seed: int = Field(0, ge=0, lt=1 << 62)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        return renamed(values, "gate", "promotion")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.run.batch_size % self.run.micro_batch:
            raise ValueError(
                f"run.batch_size {self.run.batch_size} is not a multiple of run.micro_batch {self.run.micro_batch}"
            )
        if "://" in self.out:
            raise ValueError(f"out is {self.out}: a training's folder is local, on a volume that outlives its machine")
        if self.crop.variants == 1 and (self.crop.margin_jitter or self.crop.region_jitter_px):
            raise ValueError("jitter is drawn once per cached variant: set crop.variants above 1 (8, say)")
        if of_editors := [name for name in _OF_EDITORS if getattr(self.model, name) is not None]:
            raise ValueError(
                f"model: {', '.join(of_editors)}: for editors only, and Qwen-Image-Edit is trained here; leave out"
            )
        return self
