"""What is evaluated: our refiner, a diffusers pipeline, a folder of outputs, or a control of known rank."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from refine_ops import storage
from refine_ops.chain import Refinement, open_item, refine_image
from refine_ops.config import ImageLimits, RefineSettings, pixel_settings
from refine_ops.data.stages.sample import damage
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.config import Control, ControlMethod, FolderMethod, MethodConfig, RefinerMethod
from refine_ops.image.read import decode
from refine_ops.proof.allowed import Rules
from refine_ops.records import Item, Region, U8Image

_READ = ("png", "jpg", "jpeg", "webp", "tif", "tiff")


class Method(Protocol):
    """Makes outputs, as image files of the input's size."""

    @property
    def digest(self) -> str:
        """Identifies everything that determines its pixels; outputs of another digest are never reused."""

    def run(self, inputs: Sequence[LoadedInput]) -> list[bytes | ItemError]:
        """One output per input of one case, or why there is none."""


def open_method(config: MethodConfig, device: torch.device, limits: ImageLimits) -> Method:
    """The method that `config` describes; models are loaded when the first output is asked for."""
    if isinstance(config, RefinerMethod):
        write = config.refine.write.model_copy(update={"allow_unchanged": True})
        return OurRefiner(config.refine.model_copy(update={"write": write}), device)
    if isinstance(config, FolderMethod):
        return FolderOutputs(config, limits)
    if isinstance(config, ControlMethod):
        return ControlOutputs(config.control)
    from refine_ops.eval.methods.pipelines import EditPipeline

    return EditPipeline(config, device)


def promised(config: MethodConfig) -> Rules:
    """What a method's outputs are held to: its own settings, or the defaults where it has none."""
    return Rules.of(config.refine.paste, config.refine.write) if isinstance(config, RefinerMethod) else Rules()


@dataclass(slots=True)
class OurRefiner:
    """Focus-and-Refine as in production: the same chain, one region per image; leaving it unchanged is a result too."""

    settings: RefineSettings
    device: torch.device
    _refiner: Any = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        from refine_ops.model.fingerprint import fingerprint_model
        from refine_ops.model.source import resolve_model

        model = fingerprint_model(resolve_model(self.settings.model), self.settings.model)
        return digest_of({"model": model, "settings": pixel_settings(self.settings)})

    def run(self, inputs: Sequence[LoadedInput]) -> list[bytes | ItemError]:
        if self._refiner is None:
            from refine_ops.model.refiner import load_refiner

            self._refiner = load_refiner(self.settings.model, self.device)
        opened = [self._open(i) for i in inputs]
        ready = [o for o in opened if not isinstance(o, ItemError)]
        try:
            patches = iter(self._refiner.refine_prepared([work for _, work in ready]))
        except ItemError:  # one input spoils the batch: each is redone alone
            return [_failure(self._alone, i) for i in inputs]
        return [o if isinstance(o, ItemError) else _finish(o[0], next(patches)) for o in opened]

    def _open(self, loaded: LoadedInput) -> tuple[Refinement, Any] | ItemError:
        item, files = as_item(loaded)
        try:
            refinement = Refinement(item, open_item(item, files, self.settings), self.settings, self._refiner)
            return refinement, self._refiner.prepare(refinement.conditioning())
        except ItemError as e:
            return e

    def _alone(self, loaded: LoadedInput) -> bytes:
        item, files = as_item(loaded)
        return refine_image(item, files, self._refiner, self.settings).data


def as_item(loaded: LoadedInput) -> tuple[Item, Mapping[str, bytes]]:
    """The input as a manifest row would state it, and its files by URI. Its seed derives from the input id."""
    item = loaded.item
    region = Region("r0", item.instruction, mask=item.mask, reference=item.reference or None)
    files = {item.input: loaded.data, item.mask: loaded.mask_data}
    if loaded.reference_data is not None:
        files[item.reference] = loaded.reference_data
    return Item(item.input_id, item.input, item.input_id, (region,), row=0, category=item.category), files


@dataclass(frozen=True, slots=True)
class FolderOutputs:
    """Outputs made elsewhere, found by input id."""

    config: FolderMethod
    limits: ImageLimits

    @property
    def digest(self) -> str:
        found = {uri: storage.identity(uri) for uri in storage.list_files(storage.resolve(self.config.folder))}
        return digest_of({"files": found, "resize": self.config.resize})

    def run(self, inputs: Sequence[LoadedInput]) -> list[bytes | ItemError]:
        return [_failure(self._find, i) for i in inputs]

    def _find(self, loaded: LoadedInput) -> bytes:
        stem = storage.join(storage.resolve(self.config.folder), loaded.item.input_id)
        for suffix in _READ:
            uri = f"{stem}.{suffix}"
            if storage.exists(uri):
                return self._fitted(uri, storage.read(uri, self.limits.max_bytes), loaded)
        raise ItemError("output.missing", f"{stem}.*: no output; expected one of {', '.join(_READ)}")

    def _fitted(self, uri: str, data: bytes, loaded: LoadedInput) -> bytes:
        image = decode(data, name=uri, limits=self.limits).rgb
        height, width = loaded.image.shape[:2]
        if image.shape == loaded.image.shape:
            return data
        if not self.config.resize:
            raise ItemError("output.size", f"{uri}: {image.shape[1]} x {image.shape[0]}, expected {width} x {height}")
        return encode_png(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True, slots=True)
class ControlOutputs:
    """What every metric must rank as expected.

    identity: the input's own bytes. ground-truth: the target. blurred-crop: the input's region blurred and pasted back
    with a clean seam. re-encode: the whole image as JPEG, quality 95. damaged: the region scrambled further. blank: it
    is painted grey.
    """

    control: Control

    @property
    def digest(self) -> str:
        return digest_of({"control": self.control, "version": 1})

    def run(self, inputs: Sequence[LoadedInput]) -> list[bytes | ItemError]:
        return [self._make(i) for i in inputs]

    def _make(self, loaded: LoadedInput) -> bytes:
        image = loaded.image
        match self.control:
            case "identity":
                return loaded.data
            case "ground-truth":
                return encode_png(loaded.target)
            case "re-encode":
                return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            case "blurred-crop":
                return self._pasted(loaded, cv2.GaussianBlur(image, (0, 0), 6))
            case "damaged":
                small = cv2.resize(image, None, fx=1 / 12, fy=1 / 12, interpolation=cv2.INTER_AREA)
                height, width = image.shape[:2]
                return self._pasted(loaded, cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST))
            case "blank":
                return self._pasted(loaded, np.full_like(image, 128))

    @staticmethod
    def _pasted(loaded: LoadedInput, region: np.ndarray) -> bytes:
        height, width = loaded.mask.shape
        return encode_png(damage(loaded.image, loaded.mask, region, (0, 0, width, height))[0])


def encode_png(image: U8Image) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def _finish(refinement: Refinement, patch: Any) -> bytes | ItemError:
    try:
        refinement.absorb(patch)
        return refinement.verify(refinement.encode()).data
    except ItemError as e:
        return e


def _failure(make: Callable[[LoadedInput], bytes], loaded: LoadedInput) -> bytes | ItemError:
    try:
        return make(loaded)
    except ItemError as e:
        return e


def digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
