"""Editors without focus: the whole image in, the whole image out, by the adapter that refines regions (`model/editor`).

The same editor with focus is a refiner method: `{kind: refiner, refine: {model: {model: NAME}}}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from refine_ops import PIXEL_VERSION
from refine_ops.config import ModelSettings
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.config import PipelineMethod
from refine_ops.eval.methods.method import MethodOutput, digest_of
from refine_ops.image import focus
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.open import open_refiner
from refine_ops.model.presets import EditorPreset, resolve_preset
from refine_ops.model.presets.editors import OWN_REFINER
from refine_ops.model.source import resolve_model
from refine_ops.records import Conditioning


@dataclass(slots=True)
class EditPipeline:
    """One pipeline, one image per call; the reference is given where `reference` is set."""

    config: PipelineMethod
    device: torch.device
    _refiner: Any = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        settings = self._settings()
        model = fingerprint_model(resolve_model(settings), settings)
        return digest_of({"method": self.config.model_dump(mode="json"), "model": model, "pixels": PIXEL_VERSION})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        if self._refiner is None:
            self._refiner = open_refiner(self._settings(), self.device)
        return [self._edited(i) for i in inputs]

    def _settings(self) -> ModelSettings:
        """Our own refiner's weights are an editor's here: their whole-image call is the baseline."""
        given = self.config.editor_settings
        own = given.pipeline is None and not isinstance(resolve_preset(given), EditorPreset)
        return given.model_copy(update={"pipeline": OWN_REFINER}) if own else given

    def _edited(self, loaded: LoadedInput) -> MethodOutput | ItemError:
        height, width = loaded.image.shape[:2]
        try:
            # The whole image, mirrored to a ratio that the model makes: nothing is stretched.
            whole = focus.plan_crop(
                np.ones((height, width), np.bool_),
                margin_px=0,
                grid_px=self._refiner.grid_px,
                pixels=self.config.pixels or self._refiner.focus_pixels,
            )
            mask = focus.view_mask(loaded.mask, whole)
            item = Conditioning(
                image=focus.view(loaded.image, whole),
                mask=mask,
                support=mask,
                prompt=self.config.prompt.replace("{instruction}", loaded.item.instruction),
                seed=self.config.seed,
                reference=loaded.reference if self.config.reference else None,
            )
            made = self._refiner.refine([item])[0].pixels
        except ItemError as e:
            return e
        fitted = focus.unview(made, whole)
        return MethodOutput(encode_png(np.rint(fitted * 255).astype(np.uint8)))
