"""What is looked at while training: the held-out losses of all ranks together, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.model.presets import Preset
from refine_ops.train import held_out_loss
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.denoiser import Denoiser
from refine_ops.train.grid import draw_grid
from refine_ops.train.samples.batches import BatchSpec
from refine_ops.train.samples.cache import EncodedCache, Entry
from refine_ops.train.samples.encode import Planned
from refine_ops.train.samples.encoders import Trainee


class Observation:
    """Call it with the model and the step; every rank must.

    Raises:
        JobError: validation is asked for and the dataset has no validation samples.
    """

    def __init__(
        self,
        config: TrainLoraConfig,
        preset: Preset,
        cache: EncodedCache,
        planned: Sequence[Planned],
        trainee: Trainee,
        spec: BatchSpec,
        accelerator: Any,
        device: torch.device,
        *,
        sparse: bool,
    ) -> None:
        held_out: list[tuple[Entry, str]] = [
            (cache.entry(row.key), row.sample_id) for row in planned if row.split == "validation"
        ]
        if config.run.validation_items and not held_out:
            raise JobError(
                f"{config.dataset} has no validation samples; build it with a validation_share, or set "
                "run.validation_items to 0"
            )
        self._config, self._preset, self._cache, self._trainee, self._spec = config, preset, cache, trainee, spec
        self._accelerator, self._device = accelerator, device
        run = config.run
        self._set = held_out_loss.choose(
            held_out, run.validation_items, run.sigma_buckets, config.loss, sparse, config.seed
        )

    def __call__(self, model: Denoiser, step: int) -> dict[str, float]:
        """Held-out losses (`validate.summarise`); writes `validation/step-....png`."""
        if not self._set.entries:
            return {}
        accelerator = self._accelerator
        place = (accelerator.process_index, accelerator.num_processes)
        sums = held_out_loss.local_sums(model, self._set, self._cache, self._spec, self._device, *place)
        total = accelerator.reduce(sums.float().to(self._device), reduction="sum").double().cpu()
        shown = self._set.entries[: self._config.run.grid_items]
        if shown:
            # Drawn on every rank: split weights are gathered by all of them together.
            picture = draw_grid(
                model, self._trainee, self._cache, shown, self._preset, self._spec, self._device, self._config.seed
            )
            if accelerator.is_main_process:
                storage.write(str(Path(self._config.out) / "validation" / f"step-{step:08d}.png"), picture)
        return held_out_loss.summarise(total, self._set)
