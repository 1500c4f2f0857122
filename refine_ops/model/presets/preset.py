"""A preset's fields: what a model wants of its inputs, and every number that must match how it was trained."""

import math
from dataclasses import dataclass
from typing import Final, Literal

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
