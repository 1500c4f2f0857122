"""Settings, frozen and checked early; the only module that reads the environment.

Each flow takes one frozen model as its only parameter, so that the Prefect UI shows a typed form. Settings marked
*pixels* in `pixel_settings` enter the run's fingerprint; the others (lanes, queues, budgets) may change on resume.
"""

import logging
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

logger = logging.getLogger(__name__)

OnNewFingerprint = Literal["refuse", "new-work", "redo"]
"""What a start does whose pixels depend on other things than those of the starts before it."""
KeepPatches = Literal["none", "flagged", "all"]
"""Whose raw patches are kept beside the outputs: nobody's, those of regions whose drift was undone, everybody's."""

HeldOutput = Literal["none", "source"]
"""What stands in the published set for an item of which nothing was accepted: nothing, or a copy of its source."""


class Settings(BaseModel):
    """Root of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def renamed(values: Any, old: str, new: str) -> Any:
    """What was given for a settings model, before it is checked: `old` is still understood as `new`, and says so."""
    if not isinstance(values, dict) or old not in values:
        return values
    if new in values:
        raise ValueError(f"{old} is called {new} now; both are given")
    logger.warning("setting %s is called %s now, with the same keys in it; the old name will go", old, new)
    return {new if name == old else name: value for name, value in values.items()}


PretrainedModel = Annotated[str, Field(description="Folder in the library's own layout, or a hub name with allow_hub.")]
AllowHub = Annotated[bool, Field(description="Allow the download of the hub name given here.")]


class ImageLimits(Settings):
    """What is accepted from an untrusted image, mask or reference file."""

    max_pixels: int = Field(200_000_000, gt=0, description="Largest image in pixels; larger ones are dead-lettered.")
    max_bytes: int = Field(1 << 30, gt=0, description="Largest file in bytes.")


class CropGeometry(Settings):
    """The focus crop (Eq. 3-5)."""

    margin: int = Field(64, ge=0, description="Margin m around the region's tight box.")
    margin_unit: Literal["image_1mp", "native"] = Field(
        "image_1mp",
        description="'image_1mp': m counts pixels of the image scaled to 1024^2, as the released inference does; "
        "'native': m counts pixels of the file.",
    )
    focus_pixels: int | None = Field(
        None, gt=0, description="Pixel budget of one crop at model resolution; default is the preset's (1,048,576)."
    )

    def switched_off(self) -> Self:
        """The crop is the whole image, at the same pixel budget."""
        return self.model_copy(update={"margin": 1_000_000, "margin_unit": "native"})


class FocusSettings(CropGeometry):
    """Where the model looks: the focus crop, and when it becomes tiles."""

    tiles: Literal["auto", "none"] = Field(
        "auto",
        description="'auto': a region that the model would see too small is refined in overlapping tiles at its "
        "own resolution; 'none': in one crop, however small it is seen.",
    )
    tile_zoom: float | None = Field(
        None,
        gt=0,
        le=4,
        description="A region seen at less (model px per image px) is tiled; default is the preset's (0.7, tiny 1).",
    )

    def switched_off(self) -> Self:
        """The crop is the whole image, at the same pixel budget, and never tiles."""
        return super().switched_off().model_copy(update={"tiles": "none"})

    def least_zoom(self, preset: float) -> float | None:
        """A region that the model would see at less becomes tiles; None: never. `preset` where nothing is set."""
        return None if self.tiles == "none" else self.tile_zoom or preset


class AlignSettings(Settings):
    """Undoing what the model did to the whole crop; every estimate is tested and limited."""

    geometry: bool = Field(True, description="Estimate and undo sub-pixel translation and scale.")
    tone: bool = Field(True, description="Estimate and undo a colour shift.")
    max_shift_px: float = Field(8.0, ge=0, description="Largest shift undone, in model pixels.")
    max_scale: float = Field(0.03, ge=0, description="Largest deviation of the scale from 1 undone.")
    max_de00: float = Field(20.0, ge=0, description="Largest median tone shift undone, in CIEDE2000.")
    keep_levels: float = Field(
        24.0,
        ge=0,
        le=255,
        description="Keep the source's detail where the patch departs by less than this (in 1/255) from the crop's own "
        "round trip through the model's autoencoder, in proportion; 0: off.",
    )
    min_known_px: int = Field(256, ge=16, description="Fewer known pixels than this: drift is recorded as unmeasured.")


class PasteSettings(Settings):
    """The blended paste-back (Eq. 8-9)."""

    dilate_px: int = Field(7, ge=1, description="Dilation kernel size r in native pixels.")
    blur_px: int = Field(11, ge=1, description="Gaussian kernel size k in native pixels, odd.")
    blend: Literal["full", "paper"] = Field(
        "full",
        description="'paper': Eq. 8 literally. 'full': divided by its minimum over M and clipped at 1, so that "
        "every marked pixel is fully replaced, with the same reach.",
    )
    confine: Literal["none", "region"] = Field(
        "none", description="'region': the blend's support is clipped inside the user's region."
    )

    @model_validator(mode="after")
    def _odd_blur(self) -> Self:
        if self.blur_px % 2 == 0:
            raise ValueError(f"blur_px is {self.blur_px}; a Gaussian kernel needs an odd size")
        return self

    @property
    def reach_px(self) -> int:
        """How far past what is pasted the blend's support reaches: 8 px for 7 and 11, none where it is confined."""
        return 0 if self.confine == "region" else self.dilate_px // 2 + self.blur_px // 2


class WriteSettings(Settings):
    """How the result is written back."""

    output_format: Literal["source", "png", "webp-lossless"] = Field(
        "source", description="'source' keeps the file's own format, bit depth and metadata."
    )
    jpeg_bleed: Literal["edge", "none"] = Field(
        "edge",
        description="With subsampled chroma an interpolating decoder carries an edited block 1 px further: 'edge' "
        "accepts and records that pixel, 'none' keeps the original chroma in the edge MCUs so that it stays.",
    )
    jpeg_fallback: Literal["refuse", "png"] = Field(
        "refuse", description="Where JPEG coefficients cannot be edited (no library, odd file): refuse, or write PNG."
    )
    webp_lossy: Literal["lossless", "refuse"] = Field(
        "lossless", description="A lossy WebP cannot be kept strict: write it losslessly, or refuse it."
    )
    thumbnail: Literal["refresh", "drop"] = Field(
        "drop", description="A thumbnail (EXIF, Photoshop) would show the old defect: make a new one, or drop it."
    )
    matte: tuple[int, int, int] = Field((255, 255, 255), description="Colour the model sees under transparency.")
    allow_unchanged: bool = Field(False, description="Publish an item whose region did not change at all.")
    save_change_mask: bool = Field(False, description="Also write a PNG of the allowed change, in image coordinates.")

    @property
    def changes_suffixes(self) -> bool:
        """Whether an output's suffix may become another one than planned."""
        return self.output_format != "source" or self.jpeg_fallback == "png"


class ProvenanceSettings(Settings):
    """What becomes of a source's Content Credentials (C2PA), and what a refined file says of itself."""

    existing: Literal["resign", "strip", "refuse"] | None = Field(
        None,
        description="A source with Content Credentials. 'resign': sign the result anew, the source as its parent; "
        "'strip': take them out and record it; 'refuse': the item. Default: resign with mark c2pa, else strip.",
    )
    mark: Literal["none", "iptc", "c2pa"] = Field(
        "none",
        description="What a refined file says of itself. 'iptc': its XMP says that a trained model made a part of it "
        "(DigitalSourceType); 'c2pa': every refined file is signed and says what was done where.",
    )

    @property
    def refuses(self) -> bool:
        return self.existing == "refuse"

    @property
    def resigns(self) -> bool:
        return self.existing == "resign" or (self.existing is None and self.signs_all)

    @property
    def signs_all(self) -> bool:
        return self.mark == "c2pa"

    @model_validator(mode="after")
    def _nothing_is_hidden(self) -> Self:
        if self.existing == "strip" and self.signs_all:
            raise ValueError(
                "mark 'c2pa' with existing 'strip' would hide an earlier credential behind a new one; "
                "set existing to 'resign' or 'refuse'"
            )
        return self


class ModelSettings(Settings):
    """Which refiner, and how it runs. None means: as the preset says."""

    model: str = Field("tiny", description="Preset name, a folder in diffusers' layout, or a hub name (allow_hub).")
    pipeline: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="Class of diffusers that runs the weights, where that is another one than they name.",
    )
    licence: Literal["accepted"] | None = Field(
        None, description="'accepted': you have read the weights' non-commercial licence, and keep to it."
    )
    adapters: tuple[str, ...] = Field(
        (),
        description="LoRA files or folders, or names in the registry: a version, 'current', or 'promoted', which is "
        "none before the first promotion.",
    )
    registry: str | None = Field(None, description="Adapter registry (folder or s3:// prefix) that names refer to.")
    allow_other_base: bool = Field(False, description="Also use an adapter that was trained on another base model.")
    allow_hub: bool = Field(False, description="Allow downloads of the hub names given here.")
    steps: int | None = Field(None, ge=1, le=200)
    true_cfg_scale: float | None = Field(None, ge=1.0, le=20.0)
    guidance_scale: float | None = Field(None, ge=0.0, le=30.0, description="Of an editor whose pipeline takes it.")
    strength: float | None = Field(None, gt=0.0, le=1.0, description="Of an inpainting editor: how much is made anew.")
    negative_prompt: str = " "
    zero_cond_t: bool | None = Field(None, description="Override of the transformer's condition timestep handling.")
    mask_image: Literal["vlm+vae", "vlm", "none"] | None = Field(None, description="Where the mask image is given.")
    mask_pixels: int | None = Field(None, gt=0, description="Pixel budget of the mask image in the VAE branch.")
    targets: Literal["dense", "sparse"] | None = Field(None, description="Denoise all tokens, or those pasted back.")
    reference: Literal["as_given", "registered"] | None = Field(
        None, description="References as they are, or brought into the region's pose and refused where they do not fit."
    )
    accept_unverifiable: bool = Field(
        False, description="Also take a registered reference that nothing left of the region confirms."
    )
    first: Literal["transfer"] | None = Field(
        None, description="'transfer': where a reference fits it is pasted itself, and the model is not run."
    )
    conditions: Literal["joint", "cached", "cached+text"] | None = Field(
        None,
        description="Condition images (and the prompt) see the noisy crop, or themselves alone and are computed once.",
    )
    target_ring: int = Field(2, ge=0, description="Tokens around the support that sparse targets also denoise.")
    speed: Literal["reference", "fast"] = Field("fast", description="'reference' equals diffusers bit for bit.")
    compile: bool | None = Field(
        None, description="Regional torch.compile of the transformer blocks; default on a GPU, not on a CPU."
    )
    fp8: bool = Field(False, description="fp8 rowwise linears (Hopper or newer).")
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    offload: bool = Field(
        False, description="An editor's components wait on the host and come to the GPU in turn: for small cards."
    )
    batch_size: int | None = Field(None, ge=1, le=64, description="Fixed batch per size bucket; default by size.")


class PatchSettings(Settings):
    """What happens to a region around the model: where it looks, and how its patch is aligned and pasted back."""

    focus: FocusSettings = FocusSettings()
    align: AlignSettings = AlignSettings()
    paste: PasteSettings = PasteSettings()


class RefineSettings(PatchSettings):
    """Everything that determines the pixels of a run."""

    model: ModelSettings = ModelSettings()
    write: WriteSettings = WriteSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    limits: ImageLimits = ImageLimits()
    publish: Literal["gated", "all"] = Field(
        "gated",
        description="'gated': a region is published on evidence, by the gate that was calibrated for the model, or by "
        "fixed rules where there is none; what is not accepted keeps the source's own pixels. 'all': whatever comes.",
    )
    candidates: int = Field(
        1, ge=1, le=16, description="Candidates per region at most, from other seeds; more run only as `stop` says."
    )
    stop: Literal["first-accepted", "best"] = Field(
        "first-accepted", description="Candidates run until one is accepted; or all of them, and the best is taken."
    )

    read_text: bool = Field(
        False, description="Also read the text in regions before and after (OCR, extra `eval`); takes a second each."
    )

    @model_validator(mode="after")
    def _candidates_are_judged(self) -> Self:
        if self.publish == "all" and self.candidates > 1:
            raise ValueError(f"candidates is {self.candidates}, but with publish 'all' the first one is taken; use 1")
        return self


class WorkerSettings(Settings):
    """How a node runs; never changes a pixel."""

    processes: int | None = Field(None, ge=1, description="Ranks on this node; default one per GPU, 1 on CPU.")
    read_threads: int = Field(4, ge=1)
    write_threads: int = Field(4, ge=1)
    queue_bytes: int = Field(1 << 30, gt=0, description="Decoded bytes held ahead of and behind the model, per rank.")
    flush_items: int = Field(256, ge=1, description="Outcomes per ledger part at most.")
    flush_s: float = Field(20.0, gt=0, description="Seconds an outcome may wait before its part is written.")
    grace_s: float = Field(25.0, gt=0, description="After SIGTERM, seconds to finish or drop what is in flight.")
    max_deaths: int = Field(2, ge=1, description="An item in flight at this many deaths is dead-lettered.")
    watchdog_s: float = Field(900.0, gt=0, description="A batch that takes longer counts as hung; the rank dies.")


class AccessSettings(Settings):
    """What a manifest may name; the manifest's author is not trusted, the operator is."""

    roots: tuple[str, ...] = Field((), description="Local folders readable through a manifest; empty: any.")
    buckets: tuple[str, ...] = Field((), description="S3 buckets readable through a manifest; empty: any.")


class CanaryLimits(Settings):
    """What the canary must keep for the run to go on."""

    max_dead: float = Field(0.05, ge=0, le=1, description="Largest share of dead items.")
    max_de00: float = Field(8.0, ge=0, description="Largest median tone shift of the raw patches, in CIEDE2000.")
    max_shift_px: float = Field(4.0, ge=0, description="Largest median displacement of the raw patches, native px.")
    allow_unmeasured: bool = Field(False, description="Go on although no region's drift could be measured.")


class RefineBatchConfig(Settings):
    """The one parameter of the flow `refine-batch`."""

    manifest: str = Field(description="Parquet, JSONL or CSV; local path, file:// or s3://.")
    out: str = Field("refine-run", description="Run folder, local or s3://. The same folder resumes.")
    refine: RefineSettings = RefineSettings()
    worker: WorkerSettings = WorkerSettings()
    access: AccessSettings = AccessSettings()
    limit: int | None = Field(None, ge=1, description="Refine only the first N items of the manifest.")
    allow_empty: bool = Field(False, description="A manifest without a row is a success; else it is an error.")
    shard_items: int = Field(1024, ge=1, description="Items per shard at most.")
    error_budget: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Above this share of dead items among those of this start, it fails and publishes nothing new.",
    )
    hold_budget: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Above this share of held items among those of this start (20 and more), it fails and publishes "
        "nothing new: so much is seldom the pictures' fault.",
    )
    held_output: HeldOutput = Field(
        "none", description="What stands in the published set for an item of which nothing was accepted."
    )
    max_removed: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of published items that the manifest may no longer name (20 and more published).",
    )
    max_redone: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of what is done that one start may refine again (20 and more done).",
    )
    deadline_h: float | None = Field(
        None, gt=0, description="Hours after which a start takes nothing new, publishes what is done and ends."
    )
    until: float | None = Field(
        None, description="The deadline itself, in seconds since 1970; made of deadline_h when a start begins."
    )
    allow_tiny: bool = Field(False, description="A deployment may run 'tiny', the small model that shows how it works.")
    retry_dead: bool = Field(False, description="Also redo items that are in the dead letter.")
    recheck: bool = Field(True, description="On resume, redo done items whose source's size, time or ETag changed.")
    on_new_fingerprint: OnNewFingerprint = Field(
        "refuse",
        description="When weights, pixel settings or versions are others than before. 'new-work': refine what is new "
        "or changed with them, what is published stays; 'redo': the rest too, at most max_new items per start.",
    )
    max_new: int | None = Field(
        None, ge=1, description="Items per start that only a new fingerprint brings back; the others stay published."
    )
    canary: int | None = Field(None, ge=1, description="Refine a stratified sample of this size first.")
    canary_limits: CanaryLimits = CanaryLimits()
    lanes: Literal["local", "work-pool"] = Field("local", description="One node, or child runs on a work pool.")
    lane_count: int = Field(8, ge=1, description="Child runs with lanes='work-pool': more than nodes.")
    lane_attempts: int = Field(3, ge=1, description="Times a failed lane's shards are dispatched; preemption is free.")
    keep_patches: KeepPatches = "none"
    report_items: int = Field(
        20_000,
        ge=0,
        description="Build the drift report at the end if the folder holds at most this many items, or else of this "
        "night alone if it refined no more; it decodes every image twice more. For larger nights start the flow "
        "drift-report where there are cores; 0: never.",
    )

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, values: Any) -> Any:
        return renamed(values, "canary_gates", "canary_limits")

    @model_validator(mode="before")
    @classmethod
    def _watchdog_where_it_was(cls, values: Any) -> Any:
        """`refine.model.watchdog_s`, as earlier releases have it, is `worker.watchdog_s`."""
        refine = values.get("refine") if isinstance(values, dict) else None
        model = refine.get("model") if isinstance(refine, dict) else None
        if not isinstance(refine, dict) or not isinstance(model, dict) or "watchdog_s" not in model:
            return values
        rest = {name: value for name, value in model.items() if name != "watchdog_s"}
        worker = values.get("worker") or {}
        given = worker.model_dump(exclude_unset=True) if isinstance(worker, WorkerSettings) else worker
        worker = {"watchdog_s": model["watchdog_s"], **given}
        return {**values, "refine": {**refine, "model": rest}, "worker": worker}

    @model_validator(mode="after")
    def _reach_fits(self) -> Self:
        focus, paste = self.refine.focus, self.refine.paste
        if focus.margin_unit == "native" and paste.reach_px > focus.margin:
            raise ValueError(
                f"the blend reaches {paste.reach_px} px past the mask (dilate_px {paste.dilate_px}, blur_px "
                f"{paste.blur_px}) but the margin is {focus.margin} px; raise focus.margin or set paste.confine"
            )
        return self


class RefineShardsConfig(Settings):
    """The one parameter of the flow `refine-shards`, filled in by `refine-batch` with `lanes='work-pool'`."""

    run: str = Field(description="Run folder, local or s3://, as this lane's machine reaches it.")
    order: str = Field(description="The work order in the run folder; it carries the run's settings.")
    shards: tuple[int, ...] = Field(min_length=1, description="Shards of the order that this lane refines.")
    worker: WorkerSettings | None = Field(None, description="How this lane's node runs; default as the run says.")


def pixel_settings(settings: RefineSettings) -> dict[str, Any]:
    """The settings that enter the run fingerprint: limits do not, nor do names and paths of models and adapters, whose
    files are hashed instead, nor the device, which a lane's machine chooses."""
    values = settings.model_dump(mode="json")
    for name in ("model", "adapters", "registry", "allow_hub", "allow_other_base", "device", "licence", "offload"):
        values["model"].pop(name)
    for name in ("pipeline", "guidance_scale", "strength"):  # not set, they change no fingerprint of earlier runs
        if values["model"][name] is None:
            values["model"].pop(name)
    values.pop("limits")
    if settings.provenance == ProvenanceSettings():  # files are then as releases without this setting wrote them
        values.pop("provenance")
    return values


def s3_endpoint() -> str | None:
    """`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, as boto3 reads them."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


class SigningFiles(NamedTuple):
    """Where the operator's certificate and key are: files, or a function that signs (`module:function`); and a
    time-stamp server. Names only: no setting, record or log ever holds a key."""

    certificate: str | None
    key: str | None
    hook: str | None
    time_stamp: str | None


def signing() -> SigningFiles:
    """`REFINE_C2PA_CERTIFICATE`, `REFINE_C2PA_KEY`, `REFINE_C2PA_SIGNER` and `REFINE_C2PA_TIME_STAMP`."""
    parts = ("CERTIFICATE", "KEY", "SIGNER", "TIME_STAMP")
    return SigningFiles(*(os.environ.get(f"REFINE_C2PA_{part}") or None for part in parts))


def hub_token() -> str | None:
    """The hub token, for the loader only; never a setting, never logged."""
    return os.environ.get("HF_TOKEN")


def vlm_endpoint() -> tuple[str | None, str | None, str | None]:
    """Base URL, API key and model of the OpenAI-compatible endpoint used for grounding, validation and grading."""
    env = os.environ
    return env.get("REFINE_VLM_BASE_URL"), env.get("REFINE_VLM_API_KEY"), env.get("REFINE_VLM_MODEL")


def images_endpoint() -> tuple[str | None, str | None, str | None]:
    """Base URL, API key and model of the OpenAI-compatible endpoint whose `images/edits` is evaluated as a method."""
    env = os.environ
    return env.get("REFINE_IMAGES_BASE_URL"), env.get("REFINE_IMAGES_API_KEY"), env.get("REFINE_IMAGES_MODEL")


def cache_folder() -> Path:
    """Where answers that cost money or minutes are cached (`XDG_CACHE_HOME` honoured)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refine-ops"


def prepare_prefect(verbose: bool = False) -> None:
    """Call before Prefect is imported: telemetry off, and no more log lines than asked for. What the user set stays."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    # The first start makes a database; on a busy laptop that outlasts the default of 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")


def prefect_is_set_up() -> bool:
    """Whether somebody would see a flow's run: Prefect's settings (environment, this folder's files, the active
    profile) name a server. Read without Prefect, whose import and temporary server cost 10 CPU seconds."""
    if os.environ.get("PREFECT_API_URL") or "PREFECT_API_URL" in _text_of(Path(".env")):
        return True
    here = [_toml_of(Path("prefect.toml")), _toml_of(Path("pyproject.toml")).get("tool", {}).get("prefect", {})]
    if any("url" in settings.get("api", {}) for settings in here):
        return True
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    known = _toml_of(Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"))
    active = os.environ.get("PREFECT_PROFILE") or known.get("active", "ephemeral")
    profile = known.get("profiles", {}).get(active)
    # "local" and "cloud" are profiles that Prefect brings along.
    return active != "ephemeral" if profile is None else "PREFECT_API_URL" in profile


def _text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _toml_of(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text_of(path))
    except tomllib.TOMLDecodeError:
        return {}


def child_environment(processes: int = 1) -> dict[str, str]:
    """The environment handed to workers: this one, with telemetry off and no hub access by default.

    `processes` of them share this machine's cores, unless the user has set `OMP_NUM_THREADS`.
    `python -m` would import from the folder that the user happens to stand in before anything installed.
    """
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads, **os.environ, **quiet, "PYTHONSAFEPATH": "1"}
