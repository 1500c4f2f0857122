"""The refiner: crops in, patches out, through explicit stages in batches of one fixed size per bucket."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.inputs import Bucket, InputSpec, PreparedInputs, prepare
from refine_ops.model.load import Networks, load_networks, model_dtype
from refine_ops.model.network.cached_conditions import cache_bytes
from refine_ops.model.presets import CHANGING_CONDITIONS, Conditions, Preset
from refine_ops.model.run.batch import BatchRunner
from refine_ops.model.run.memory import MemoryLadder, Work
from refine_ops.model.sizes import token_grid
from refine_ops.model.source import resolve_model
from refine_ops.model.sparse import generated_mask
from refine_ops.model.speed import accelerate
from refine_ops.records import Conditioning, Patch, ReferencePolicy

TOKEN_BUDGET: Final = 24_576
"""Tokens that a step of a batch computes, on a GPU. On an H100, 256^2 crops gain 2.9x from batches of 16 (24k tokens)
and 512^2 crops 1.2x from batches of 4 (15k); a 1024^2 crop alone has 13k, where batching gains nothing. A step over so
many tokens computes for longer than its kernels take to launch, which is why there are no CUDA graphs."""
CACHE_BUDGET: Final = 12 << 30
"""Bytes of a batch's cached keys and values. By arithmetic: of 80 GiB the weights take 57, and the activations have the
rest."""
LARGEST_BATCH: Final = 16
TEXT_TOKENS: Final = 700
"""Prompt tokens of a typical item, for the budget only: three pictures of 384^2 are 588."""
TEXT_MULTIPLE: Final = 32
"""Texts of items that share a batch are padded to multiples of this, so that near-equal prompts meet in one bucket."""


@dataclass(frozen=True, slots=True)
class _Task:
    position: int
    item: PreparedInputs


class StagedRefiner:
    """A loaded model behind the `Refiner` seam. Not thread-safe, except for `prepare`.

    An item's patch depends on the item, the batch size and the step-down alone: batches hold items of one bucket and
    are filled up to exactly the batch size by repeating items.
    """

    def __init__(
        self,
        networks: Networks,
        preset: Preset,
        settings: ModelSettings,
        device: torch.device,
        fingerprint: dict[str, str],
    ) -> None:
        config = networks.transformer.config
        if config.guidance_embeds:
            raise JobError("the transformer is guidance-distilled (guidance_embeds); Qwen-Image-Edit models are not")
        if preset.conditions != "joint" and not networks.transformer.config.zero_cond_t:
            raise JobError(CHANGING_CONDITIONS.format(preset.conditions))
        if preset.grid_px % (2 * networks.latent_px):
            raise JobError(f"grid_px {preset.grid_px} is no multiple of a token's {2 * networks.latent_px} px")
        self._settings, self._preset, self._device = settings, preset, device
        self._networks, self._fingerprint = networks, fingerprint
        self._spec = InputSpec.of(
            networks,
            preset,
            negative_prompt=settings.negative_prompt if preset.true_cfg_scale > 1.0 else None,
            target_ring=settings.target_ring,
        )
        self._runner = BatchRunner(networks, preset, settings, device)
        self._memory = MemoryLadder()

    @property
    def grid_px(self) -> int:
        """Sides of crops are multiples of this."""
        return self._preset.grid_px

    @property
    def focus_pixels(self) -> int:
        """The preset's pixel budget for one crop."""
        return self._preset.focus_pixels

    @property
    def tile_zoom(self) -> float:
        """Below which the preset has regions split into tiles."""
        return self._preset.tile_zoom

    @property
    def reference(self) -> ReferencePolicy:
        """How the preset wants its references."""
        return self._preset.reference

    @property
    def fingerprint(self) -> dict[str, str]:
        """What determines the pixels: hashes of weights and LoRAs, the preset in force, versions."""
        return dict(self._fingerprint)

    def batch_size(self, bucket: Bucket) -> int:
        """Items per batch: as set, else by what a step computes and a cache holds (1 on a CPU)."""
        return self._memory.footprint(self._work(bucket)).batch_size

    def prepare(self, item: Conditioning) -> PreparedInputs:
        """The host's part of one item, for threads that read ahead; `bucket` says which items share a batch.

        Raises:
            ItemError: The item cannot be refined (`model.size`, `prompt.special_token`).
        """
        return prepare(item, self._spec, self._text_multiple)

    def refine(self, batch: Sequence[Conditioning]) -> list[Patch]:
        """Refine crops, in any number and mixture; patches come in the order of `batch`.

        Raises:
            ItemError: One item cannot be refined; redo the others without it, their pixels stay the same.
        """
        return self.refine_prepared([self.prepare(item) for item in batch])

    def refine_prepared(self, batch: Sequence[PreparedInputs]) -> list[Patch]:
        """Refine what `prepare` made; see `refine`."""
        buckets: dict[Bucket, list[_Task]] = defaultdict(list)
        for position, item in enumerate(batch):
            buckets[item.bucket].append(_Task(position, item))
        patches: dict[int, Patch] = {}
        for bucket, tasks in buckets.items():
            done = 0
            while done < len(tasks):
                step = tasks[done : done + self.batch_size(bucket)]
                made = self._run([task.item for task in step])
                if made is None:
                    self._free_memory()
                    self._memory.step_down(self._work(bucket))
                    continue
                patches |= {task.position: patch for task, patch in zip(step, made, strict=True)}
                done += len(step)
        return [patches[position] for position in range(len(batch))]

    def _run(self, items: list[PreparedInputs]) -> list[Patch] | None:
        """One padded batch; None if device memory ran out."""
        bucket = items[0].bucket
        size, work = bucket.images[0], self._work(bucket)
        footprint = self._memory.footprint(work)
        padded = (items * footprint.batch_size)[: footprint.batch_size]
        try:
            made = self._runner.run(padded, footprint, self._text_multiple(bucket) > 1)
            finite = bool(made[0][: len(items)].isfinite().all())
            pixels, roundtrips = (images[: len(items)].cpu().numpy() for images in made)
        except torch.OutOfMemoryError:
            return None
        if not finite:
            raise ItemError(
                "model.not_finite", "the model produced values that are not finite; try dtype float32 or another seed"
            )
        label = self._memory.label(work)
        grid = token_grid(size, self._networks.latent_px)
        return [
            Patch(
                pixels=image,
                generated=np.ones(image.shape[:2], bool)
                if item.targets is None
                else generated_mask(item.targets, grid, size),
                batch_size=footprint.batch_size,
                step_down=label,
                roundtrip=roundtrip,
            )
            for image, roundtrip, item in zip(pixels, roundtrips, items, strict=True)
        ]

    def _work(self, bucket: Bucket) -> Work:
        return bucket.images[0], self._planned(bucket)

    def _planned(self, bucket: Bucket) -> int:
        if self._settings.batch_size is not None:
            return self._settings.batch_size
        if self._device.type != "cuda":
            return 1
        known = sum(math.prod(token_grid(size, self._networks.latent_px)) for size in bucket.images)
        transformer = self._networks.transformer
        token_bytes = cache_bytes(transformer, 1, transformer.dtype.itemsize)
        return batch_for(bucket.targets, known, self._preset.conditions, token_bytes)

    def _text_multiple(self, bucket: Bucket) -> int:
        return 1 if self._planned(bucket) == 1 else TEXT_MULTIPLE

    def _free_memory(self) -> None:
        self._runner.forget()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def batch_for(targets: int, known: int, conditions: Conditions, token_bytes: int) -> int:
    """Items per batch on a GPU, a power of two up to `LARGEST_BATCH`.

    Args:
        targets: Tokens denoised; `known` those of the condition images.
        token_bytes: Bytes of one token in the cache of keys and values.
    """
    if conditions == "joint":
        fitting = TOKEN_BUDGET // (targets + known + TEXT_TOKENS)
    else:
        text, cached = (0, known + TEXT_TOKENS) if conditions == "cached+text" else (TEXT_TOKENS, known)
        fitting = min(TOKEN_BUDGET // (targets + text), CACHE_BUDGET // (cached * token_bytes))
    return min(LARGEST_BATCH, 1 << (max(1, fitting).bit_length() - 1))


def load_refiner(settings: ModelSettings, device: torch.device) -> StagedRefiner:
    """Load the model that `settings` name onto `device`.

    Raises:
        JobError: Missing or unfit files, impossible settings, too little device memory.
    """
    model = resolve_model(settings)
    networks = load_networks(model, device, model_dtype(settings, device))
    return build_refiner(networks, model.preset, settings, device, fingerprint_model(model, settings))


def build_refiner(
    networks: Networks, preset: Preset, settings: ModelSettings, device: torch.device, fingerprint: dict[str, str]
) -> StagedRefiner:
    """A refiner over networks that are already on `device`, LoRAs fused; `speed: fast` takes their modules over."""
    if settings.speed == "fast":
        networks = accelerate(networks, settings, device)
    return StagedRefiner(networks, preset, settings, device, fingerprint)
