"""The first phase of a training: every sample encoded once, and the plan of what may be drawn."""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import torch

from refine_ops.errors import ItemError
from refine_ops.model import stages
from refine_ops.model.inputs import PreparedInputs, prepare
from refine_ops.model.presets import Preset
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.samples.cache import EncodedCache, Entry, address
from refine_ops.train.samples.dataset import (
    TrainingCrop,
    TrainingSample,
    crop_key,
    make_crop,
    read_files,
    without_reference,
)
from refine_ops.train.samples.encoders import Encoders

logger = logging.getLogger(__name__)

_READ_THREADS: Final = 4
_AHEAD: Final = 16
"""Crops made ahead of the encoders: 16 of 1024^2 with a reference are 0.3 GB."""


@dataclass(frozen=True, slots=True)
class CropToEncode:
    """One crop to encode. `twin` marks the version without reference that dropout draws."""

    sample: TrainingSample
    variant: int
    twin: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """An encoded crop that may be drawn: `key` in the cache."""

    key: str
    sample_id: str
    split: str
    variant: int
    twin: bool
    has_reference: bool


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that cannot be trained on, and why."""

    sample_id: str
    reason: str
    message: str


def crops_to_encode(samples: Iterable[TrainingSample], config: TrainLoraConfig) -> list[CropToEncode]:
    """What is encoded: all variants of training samples (with twins for dropout), the plain one for validation."""
    planned: list[CropToEncode] = []
    for sample in samples:
        variants = config.crop.variants if sample.split == "train" else 1
        planned += [CropToEncode(sample, variant, False) for variant in range(variants)]
        if sample.split == "train" and sample.reference is not None and config.crop.reference_dropout > 0:
            planned += [CropToEncode(without_reference(sample), variant, True) for variant in range(variants)]
    return planned


class SampleEncoder:
    """Encodes what the cache lacks; `load` is called only if there is something to encode."""

    def __init__(
        self,
        config: TrainLoraConfig,
        preset: Preset,
        identity: str,
        cache: EncodedCache,
        load: Callable[[], Encoders],
    ) -> None:
        self._config, self._preset, self._identity = config, preset, identity
        self._cache, self._load = cache, load
        self._encoders: Encoders | None = None

    def __call__(self, work: Iterable[CropToEncode]) -> Iterator[Planned | Skipped]:
        """One result per crop, in order; everything is on disk when the iterator is exhausted."""
        remaining = iter(work)
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            while ahead := list(islice(remaining, _AHEAD)):
                for todo, made in zip(ahead, pool.map(self._read, ahead), strict=True):
                    yield self._finish(todo, made)
        self._cache.flush()

    def _read(self, todo: CropToEncode) -> tuple[str, TrainingCrop | None] | ItemError:
        """The crop's key and, unless it is encoded already, the crop."""
        config, sample = self._config, todo.sample
        try:
            files = read_files(sample, config.limits)
            pixels = crop_key(sample, files, config.crop, todo.variant, config.seed)
            sizes = (self._preset.focus_pixels, self._preset.vlm_pixels, self._preset.mask_pixels or 0)
            key = address(pixels, self._identity, self._preset.mask_image, sizes)
            if key in self._cache:
                return key, None
            return key, make_crop(
                sample, files, config.crop, self._preset, config.limits, variant=todo.variant, seed=config.seed
            )
        except ItemError as error:
            return error

    def _finish(self, todo: CropToEncode, made: tuple[str, TrainingCrop | None] | ItemError) -> Planned | Skipped:
        sample = todo.sample
        try:
            if isinstance(made, ItemError):
                raise made
            key, crop = made
            if crop is not None:
                self._cache.finish(self._encode(key, crop))
        except ItemError as error:
            logger.warning("sample %s is left out: %s", sample.sample_id, error)
            return Skipped(sample.sample_id, error.reason, str(error))
        return Planned(key, sample.sample_id, sample.split, todo.variant, todo.twin, sample.reference is not None)

    @torch.no_grad()
    def _encode(self, key: str, crop: TrainingCrop) -> Entry:
        encoders = self._encoders = self._encoders or self._load()
        prepared = prepare(crop.conditioning, encoders.spec, text_multiple=lambda _: 1)
        clean = torch.from_numpy(np.array(crop.target)).permute(2, 0, 1).contiguous()
        return Entry(
            key=key,
            images=tuple(self._latents(encoders, image) for image in prepared.images),
            sizes=prepared.bucket.images,
            target=self._latents(encoders, clean),
            prompt=self._prompt(encoders, prepared),
            text_tokens=prepared.bucket.text,
            regions=self._regions(crop),
        )

    def _latents(self, encoders: Encoders, image: torch.Tensor) -> str:
        """Encode `uint8 (3, h, w)` unless an equal image was; returns the address."""
        place = address("latents", self._identity, image.shape, image.numpy().tobytes())
        if not self._cache.has(place):
            self._cache.put(place, stages.encode_images(encoders.vae, image[None].to(encoders.device))[0])
        return place

    def _prompt(self, encoders: Encoders, prepared: PreparedInputs) -> str:
        place = address("prompt", self._identity, prepared.prompt.key, prepared.prompt.ids.tolist())
        if not self._cache.has(place):
            pictures = [(prepared.pixel_values, prepared.grid_thw)]
            embeds, _ = encoders.prompts([prepared.prompt], pictures, prepared.bucket.text)
            self._cache.put(place, embeds[0])
        return place

    def _regions(self, crop: TrainingCrop) -> str:
        packed = np.stack([np.packbits(crop.conditioning.mask), np.packbits(crop.conditioning.support)])
        place = address("regions", crop.conditioning.mask.shape, packed.tobytes())
        if not self._cache.has(place):
            self._cache.put(place, torch.from_numpy(packed))
        return place
