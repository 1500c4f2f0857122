"""What each model wants: where its weights are, and every number that must match how it was trained."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import tiny
from refine_ops.records import ReferencePolicy

MaskImage = Literal["vlm+vae", "vlm", "none"]
Targets = Literal["dense", "sparse"]
Conditions = Literal["joint", "cached", "cached+text"]

PIPELINE_GRID_PX: Final = 32
"""Qwen-Image-Edit's pipeline rounds every image size to multiples of 32 px; so does training on it."""
VLM_PIXELS: Final = 384 * 384
"""Budget of one image in front of Qwen2.5-VL, as the pipeline has it (`CONDITION_IMAGE_SIZE`)."""
VAE_PIXELS: Final = 1024 * 1024
"""Budget of one image in front of the VAE, as the pipeline has it (`VAE_IMAGE_SIZE`)."""
LIGHTNING_SHIFT: Final = math.log(3.0)
"""Lightning was distilled at one noise schedule, whatever the resolution: exp(shift) = 3."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA in the hub's terms; `scale` multiplies its delta."""

    repo: str
    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Preset:
    """How a model is run. Images are always given in the order crop, (reference), mask, as the release does.

    Attributes:
        source: Folder in diffusers' layout, or hub name.
        loras: Fused into the transformer, in this order.
        steps: Denoising steps.
        true_cfg_scale: Classifier-free guidance; 1.0 means off (half the work), which distilled models need.
        zero_cond_t: Modulate condition-image tokens at t = 0; None keeps what the checkpoint's config says.
        shift: Constant time shift (`base_shift` = `max_shift`); None keeps the scheduler's own.
        grid_px: Crop sizes are multiples of this.
        focus_pixels: Pixel budget of the crop, and of the reference image.
        vlm_pixels: Pixel budget of each image given to the vision-language model; sides are multiples of `vlm_grid_px`.
        mask_image: Where the mask image goes: `vlm+vae` as released, `vlm` as Eq. 2 reads, or nowhere.
        mask_pixels: Pixel budget of the mask in the VAE branch; None means the crop's own size.
        reference: `as_given`, or `registered`: in the region's pose, and none where it does not fit.
        tile_zoom: Regions seen at less are split into tiles (`image/patch/tiles.py`).
        targets: `dense` denoises the whole crop, `sparse` only what is pasted back (needs a LoRA trained so).
        conditions: `joint` attention as released; `cached`: condition images attend to themselves alone, so that they
            are computed once per batch instead of once per step; `cached+text` the prompt too (need a LoRA trained so,
            and `zero_cond_t`).
    """

    source: str
    loras: tuple[LoraFile, ...] = ()
    steps: int = 28
    true_cfg_scale: float = 4.0
    zero_cond_t: bool | None = None
    shift: float | None = None
    grid_px: int = PIPELINE_GRID_PX
    focus_pixels: int = VAE_PIXELS
    vlm_pixels: int = VLM_PIXELS
    vlm_grid_px: int = PIPELINE_GRID_PX
    mask_image: MaskImage = "vlm+vae"
    mask_pixels: int | None = None
    targets: Targets = "dense"
    conditions: Conditions = "joint"
    reference: ReferencePolicy = "as_given"
    tile_zoom: float = 0.7

    def __post_init__(self) -> None:
        sizes = (self.grid_px, self.focus_pixels, self.vlm_pixels, self.vlm_grid_px, self.mask_pixels or 1)
        if self.steps < 1 or self.true_cfg_scale < 1.0 or min(sizes) < 1:
            raise ValueError(f"steps, true_cfg_scale, sizes and pixel budgets are at least 1: {self}")


_QWEN_2511: Final = "Qwen/Qwen-Image-Edit-2511"
_REFINE: Final = LoraFile("limuloo1999/RefineAnything", "Qwen-Image-Edit-2511-RefineAny.safetensors")
_LIGHTNING: Final = "lightx2v/Qwen-Image-Edit-2511-Lightning"

_REFINE_2511: Final = Preset(
    source=_QWEN_2511,
    loras=(_REFINE,),
    # The release pins diffusers 0.36, which did not know the flag 2511's config sets, so its LoRA saw it off
    # (inferred; compare both with `zero_cond_t: true`).
    zero_cond_t=False,
    # The released inference runs Lightning's schedule with and without that LoRA.
    shift=LIGHTNING_SHIFT,
)

CHANGING_CONDITIONS: Final = (
    "conditions {!r} with zero_cond_t false: the condition images are modulated by the time, so that they change in "
    "every step and cannot be cached; set zero_cond_t true (with an adapter trained so) or conditions 'joint'"
)
TRANSFER: Final = "transfer"
PRESETS: Final = {
    "tiny": Preset(
        source=str(tiny.WEIGHTS),
        steps=tiny.STEPS,
        true_cfg_scale=tiny.TRUE_CFG_SCALE,
        grid_px=tiny.GRID_PX,
        focus_pixels=tiny.VAE_PIXELS,
        vlm_pixels=tiny.VLM_PIXELS,
        vlm_grid_px=tiny.VLM_GRID_PX,
        reference="registered",  # it copies by place
        tile_zoom=1.0,
    ),
    "refineanything-2511": _REFINE_2511,
    "refineanything-2511-lightning-8": replace(
        _REFINE_2511,
        loras=(_REFINE, LoraFile(_LIGHTNING, "Qwen-Image-Edit-2511-Lightning-8steps-V1.0-bf16.safetensors")),
        steps=8,
        true_cfg_scale=1.0,
    ),
    "refineanything-2511-lightning-4": replace(
        _REFINE_2511,
        loras=(_REFINE, LoraFile(_LIGHTNING, "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors")),
        steps=4,
        true_cfg_scale=1.0,
    ),
    # The base models are not refiners, but baselines; their own configs hold.
    "qwen-image-edit-2511": Preset(source=_QWEN_2511, steps=40),
    "qwen-image-edit-2509": Preset(source="Qwen/Qwen-Image-Edit-2509", steps=40),
    # No network: the registered reference itself. Nothing of a schedule or a language model applies.
    TRANSFER: Preset(source="", steps=1, true_cfg_scale=1.0, grid_px=8, reference="registered", tile_zoom=1.0),
}


def resolve_preset(settings: ModelSettings) -> Preset:
    """The preset named by `settings.model`, or a default one for a folder or hub name; overrides are not applied yet.

    Raises:
        JobError: The name is neither a preset, nor a folder, nor a hub name.
    """
    name = settings.model
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return Preset(source=name)
    raise JobError(
        f"model {name!r} is not a preset ({', '.join(PRESETS)}), not a folder in diffusers' layout and not a hub name "
        "(owner/model); correct `model`"
    )


def apply_overrides(preset: Preset, settings: ModelSettings) -> Preset:
    """The preset with every field that the user set.

    Raises:
        JobError: The combination cannot be run.
    """
    fields = (
        "steps",
        "true_cfg_scale",
        "zero_cond_t",
        "mask_image",
        "mask_pixels",
        "targets",
        "conditions",
        "reference",
    )
    preset = replace(preset, **{name: value for name in fields if (value := getattr(settings, name)) is not None})
    if settings.speed == "reference":
        wishes = {
            "targets 'sparse'": preset.targets == "sparse",
            f"conditions {preset.conditions!r}": preset.conditions != "joint",
            "compile": settings.compile,
            "fp8": settings.fp8,
        }
        if asked := [name for name, wished in wishes.items() if wished]:
            raise JobError(f"speed 'reference' is diffusers as it is, without {', '.join(asked)}; set speed 'fast'")
    if preset.conditions != "joint" and preset.zero_cond_t is False:
        raise JobError(CHANGING_CONDITIONS.format(preset.conditions))
    return preset
