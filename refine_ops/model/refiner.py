"""The refiner: crops in, patches out, through explicit stages in batches of one fixed size per bucket."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.model.batch import BatchRunner
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.inputs import Bucket, InputSpec, PreparedInputs, prepare
from refine_ops.model.load import Networks, load_networks, model_dtype
from refine_ops.model.memory import MemoryLadder
from refine_ops.model.presets import CHANGING_CONDITIONS, Preset
from refine_ops.model.sizes import token_grid
from refine_ops.model.source import resolve_model
from refine_ops.model.sparse import generated_mask
from refine_ops.model.speed import accelerate
from refine_ops.records import Conditioning, Patch, ReferencePolicy

TOKEN_BUDGET: Final = 24_576
"""Tokens of a batch on a GPU. On an H100, 256^2 crops gain 2.9x from batches of 16 (24k tokens) and 512^2 crops 1.2x
from batches of 4 (15k); a 1024^2 crop alone has 13k, where batching gains nothing. A step over so many tokens computes
for longer than its kernels take to launch, which is why there are no CUDA graphs."""
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

    def batch_size(self, size: tuple[int, int]) -> int:
        """Items per batch for crops of `(width, height)`: as set, else by the token budget (1 on a CPU)."""
        return self._memory.footprint(size, self._planned(size)).batch_size

    def prepare(self, item: Conditioning) -> PreparedInputs:
        """The host's part of one item, for threads that read ahead; `bucket` says which items share a batch.

        Raises:
            ItemError: The item cannot be refined (`model.size`, `prompt.special_token`).
        """
        size = (item.image.shape[1], item.image.shape[0])
        return prepare(item, self._spec, self._text_multiple(size))

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
            size, done = bucket.images[0], 0
            while done < len(tasks):
                step = tasks[done : done + self.batch_size(size)]
                made = self._run([task.item for task in step])
                if made is None:
                    self._free_memory()
                    self._memory.step_down(size)
                    continue
                patches |= {task.position: patch for task, patch in zip(step, made, strict=True)}
                done += len(step)
        return [patches[position] for position in range(len(batch))]

    def _run(self, items: list[PreparedInputs]) -> list[Patch] | None:
        """One padded batch; None if device memory ran out."""
        size = items[0].bucket.images[0]
        footprint = self._memory.footprint(size, self._planned(size))
        padded = (items * footprint.batch_size)[: footprint.batch_size]
        try:
            made = self._runner.run(padded, footprint, self._text_multiple(size) > 1)
            pixels, roundtrips = (images[: len(items)].cpu().numpy() for images in made)
        except torch.OutOfMemoryError:
            return None
        if not np.isfinite(pixels).all():
            raise ItemError(
                "model.not_finite", "the model produced values that are not finite; try dtype float32 or another seed"
            )
        label = self._memory.label(size)
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

    def _planned(self, size: tuple[int, int]) -> int:
        if self._settings.batch_size is not None:
            return self._settings.batch_size
        if self._device.type != "cuda":
            return 1
        rows, columns = token_grid(size, self._networks.latent_px)
        fitting = TOKEN_BUDGET // (3 * rows * columns + TEXT_TOKENS)
        return min(LARGEST_BATCH, 1 << (max(1, fitting).bit_length() - 1))

    def _text_multiple(self, size: tuple[int, int]) -> int:
        return 1 if self._planned(size) == 1 else TEXT_MULTIPLE

    def _free_memory(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


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
