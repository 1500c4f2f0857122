"""This package's refiner as a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from refine_ops.chain import Finished, Refinement, finish_shown, refine_image
from refine_ops.config import RefineSettings, pixel_settings
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.methods.method import MethodOutput, digest_of, output_or_error
from refine_ops.opened import open_item
from refine_ops.records import Item, Region


@dataclass(slots=True)
class OurRefiner:
    """Focus-and-Refine as in production: the same chain, one region per image."""

    settings: RefineSettings
    device: torch.device
    _refiner: Any = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        from refine_ops.model.fingerprint import fingerprint_model
        from refine_ops.model.source import resolve_model

        model = fingerprint_model(resolve_model(self.settings.model), self.settings.model)
        settings = pixel_settings(self.settings)
        settings["model"]["adapters"] = []  # their contents are in the model's fingerprint, wherever they lie
        return digest_of({"model": model, "settings": settings})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        if self._refiner is None:
            from refine_ops.model.open import open_refiner

            self._refiner = open_refiner(self.settings.model, self.device)
        opened = [self._open(i) for i in inputs]
        ready = [o for o in opened if not isinstance(o, ItemError)]
        try:
            while ready:  # once, and once more for every further tile of a large region
                work = [self._refiner.prepare(refinement.conditioning()) for refinement in ready]
                for refinement, patch in zip(ready, self._refiner.refine_prepared(work), strict=True):
                    refinement.absorb(patch)
                ready = [refinement for refinement in ready if not refinement.complete]
        except ItemError:  # one input spoils the batch: each is redone alone
            return [output_or_error(self._alone, i) for i in inputs]
        return [o if isinstance(o, ItemError) else _finish(o) for o in opened]

    def _open(self, loaded: LoadedInput) -> Refinement | ItemError:
        item, files = as_item(loaded)
        try:
            return Refinement(item, open_item(item, files, self.settings), self.settings, self._refiner)
        except ItemError as e:
            return e

    def _alone(self, loaded: LoadedInput) -> MethodOutput:
        item, files = as_item(loaded)
        return _output(refine_image(item, files, self._refiner, self.settings))


def as_item(loaded: LoadedInput) -> tuple[Item, Mapping[str, bytes]]:
    """The input as a manifest row would state it, and its files by URI. Its seed derives from the input id."""
    item = loaded.item
    region = Region("r0", item.instruction, mask=item.mask, reference=item.reference or None)
    files = {item.input: loaded.data, item.mask: loaded.mask_data}
    if loaded.reference_data is not None:
        files[item.reference] = loaded.reference_data
    return Item(item.input_id, item.input, item.input_id, (region,), row=0, category=item.category), files


def _finish(refinement: Refinement) -> MethodOutput | ItemError:
    try:
        return _output(finish_shown(refinement))
    except ItemError as e:
        return e


def _output(finished: Finished) -> MethodOutput:
    return MethodOutput(finished.data, finished.regions[0].alignment)
