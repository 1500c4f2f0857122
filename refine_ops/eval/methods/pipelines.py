"""Diffusers image-editing pipelines as baselines: the whole image in, the whole image out, prompt only."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import diffusers
import numpy as np
import torch
from PIL import Image

from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.config import PipelineMethod
from refine_ops.eval.methods.method import MethodOutput, digest_of
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.model.pretrained import load
from refine_ops.records import U8Image


@dataclass(slots=True)
class EditPipeline:
    """One pipeline, one image per call; the reference is a second image where `reference` is set."""

    config: PipelineMethod
    device: torch.device
    _pipeline: Any = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        return digest_of({"pipeline": self.config.model_dump(mode="json"), "diffusers": diffusers.__version__})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        if self._pipeline is None:
            self._pipeline = load(
                diffusers.DiffusionPipeline, self.config.model, self.config.allow_hub, weights=True
            ).to(self.device)
            self._pipeline.set_progress_bar_config(disable=True)
        return [self._edit(i) for i in inputs]

    def _edit(self, loaded: LoadedInput) -> MethodOutput | ItemError:
        options = self._options(loaded)
        with torch.inference_mode():
            made = np.asarray(self._pipeline(**options, output_type="np").images[0], np.float32)
        if not np.isfinite(made).all():
            return ItemError("pipeline.not_finite", f"{self.config.model}: returned NaN or infinity")
        height, width = loaded.image.shape[:2]
        fitted = cv2.resize(made, (width, height), interpolation=cv2.INTER_CUBIC)
        return MethodOutput(encode_png(np.rint(fitted.clip(0, 1) * 255).astype(np.uint8)))

    def _options(self, loaded: LoadedInput) -> dict[str, Any]:
        """The call's arguments; one that the pipeline does not take is an error, not silence."""
        images: list[U8Image] = [loaded.image]
        if self.config.reference and loaded.reference is not None:
            images.append(loaded.reference)
        pictures = [Image.fromarray(i) for i in images]
        options: dict[str, Any] = {
            "image": pictures if len(pictures) > 1 else pictures[0],
            "prompt": self.config.prompt.replace("{instruction}", loaded.item.instruction),
            "num_inference_steps": self.config.steps,
            "generator": torch.Generator("cpu").manual_seed(self.config.seed),
        }
        takes = inspect.signature(self._pipeline.__call__).parameters.keys()
        if self.config.true_cfg_scale is not None:
            options["true_cfg_scale"] = self.config.true_cfg_scale
        if "true_cfg_scale" in takes and self.config.true_cfg_scale != 1:
            options["negative_prompt"] = " "  # without one these pipelines silently skip guidance
        if self.config.guidance_scale is not None:
            options["guidance_scale"] = self.config.guidance_scale
        if self.config.pixels is not None:
            options["height"], options["width"] = _sides(loaded.image, self.config.pixels)
        unknown = options.keys() - takes
        if unknown:
            name = type(self._pipeline).__name__
            raise JobError(f"method {self.config.name!r}: {name} takes no {', '.join(sorted(unknown))}; leave it out")
        return options


def _sides(image: U8Image, pixels: int) -> tuple[int, int]:
    """Height and width of about `pixels` in the image's shape, multiples of 16."""
    height, width = image.shape[:2]
    scale = (pixels / (height * width)) ** 0.5
    return max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)
