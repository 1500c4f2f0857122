"""`Inpaint(I*, M)` (Eq. 12) with diffusers pipelines: FLUX.1-Fill, SDXL, Qwen-Image-Edit, or any other by name."""

import inspect
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoPipelineForInpainting, DiffusionPipeline
from PIL import Image

from refine_ops.data.config import DiffusersInpainting
from refine_ops.data.stages.degrade import Degraded
from refine_ops.errors import ItemError, JobError
from refine_ops.image.focus import plan_crop, unview, view, view_mask
from refine_ops.model.pretrained import load, pick_device
from refine_ops.records import F32Image, Mask, U8Image


class DiffusersDegrader:
    """Implements `Degrader`. One image per call, noise from the sample's own generator on the CPU: the same crop gives
    the same pixels on every rank of one device kind."""

    def __init__(self, settings: DiffusersInpainting, rank: int = 0) -> None:
        self._settings = settings
        pipeline = load(DiffusionPipeline, settings.model, settings.allow_hub, weights=True)
        self._pipeline = _inpainting(pipeline, settings.model).to(pick_device(rank))
        self._pipeline.set_progress_bar_config(disable=True)
        self._takes = set(inspect.signature(self._pipeline.__call__).parameters)

    @property
    def name(self) -> str:
        return f"{self._settings.model} ({type(self._pipeline).__name__})"

    @property
    def family(self) -> str:
        return f"inpaint-{PurePath(self._settings.model).name.lower()}"

    def degrade(self, crop: U8Image, mask: Mask, description: str, rng: np.random.Generator) -> Degraded:
        """The crop inpainted at the pipeline's resolution and resampled back.

        Raises:
            ItemError: `degrade.not_finite`, `degrade.withheld` (a safety filter blanked the result).
        """
        whole = plan_crop(mask, margin_px=max(mask.shape), grid_px=self._settings.grid_px, pixels=self._settings.pixels)
        seed = int(rng.integers(1 << 62))
        result = self._pipeline(
            prompt=self._settings.prompt.replace("{object}", description),
            image=Image.fromarray(view(crop, whole)),
            mask_image=Image.fromarray(view_mask(mask, whole)),
            num_inference_steps=self._settings.steps,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **self._options(whole.size),
        )
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise ItemError("degrade.withheld", f"{self.name}: its safety filter withheld the result")
        patch = np.asarray(result.images[0], np.float32)
        if not np.isfinite(patch).all():
            raise ItemError("degrade.not_finite", f"{self.name}: returned NaN or infinity")
        pixels = np.rint(unview(_resized(patch, whole.size), whole) * 255).astype(np.uint8)
        size = [patch.shape[1], patch.shape[0]]
        step = {"degradation": self.family, "seed": seed, "steps": self._settings.steps, "size": size}
        return Degraded(pixels, (step,), (self.family,))

    def _options(self, size: tuple[int, int]) -> dict[str, Any]:
        options: dict[str, Any] = {"width": size[0], "height": size[1]}
        if self._settings.strength is not None:
            options["strength"] = self._settings.strength
        if self._settings.guidance is not None:
            true_cfg = "true_cfg_scale" in self._takes
            options["true_cfg_scale" if true_cfg else "guidance_scale"] = self._settings.guidance
        if "true_cfg_scale" in self._takes:
            options["negative_prompt"] = " "  # without one these pipelines silently skip guidance
        return options


def _resized(patch: F32Image, size: tuple[int, int]) -> F32Image:
    """The patch at the size that was asked for.

    Some pipelines choose their own (Qwen-Image-Edit's always works at 1 MP): they stretch the whole view to it, so
    resizing back to the view's size puts every pixel where it belongs.
    """
    if patch.shape[1::-1] == size:
        return patch
    kernel = cv2.INTER_AREA if patch.shape[1] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(patch, size, interpolation=kernel), np.float32)


def _inpainting(pipeline: Any, model: str) -> Any:
    """The checkpoint's own pipeline if it takes a mask, else the inpainting pipeline over the same weights.

    Raises:
        JobError: diffusers knows no inpainting pipeline for it.
    """
    if "mask_image" in inspect.signature(pipeline.__call__).parameters:
        return pipeline
    try:
        return AutoPipelineForInpainting.from_pipe(pipeline)
    except ValueError as e:
        raise JobError(f"model {model!r}: diffusers has no inpainting pipeline for {type(pipeline).__name__}") from e
