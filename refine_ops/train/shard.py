"""The ranks of a training: their process group (accelerate's), and frozen weights split over them (FSDP2).

Splitting is for devices that cannot hold the transformer. torch's `fully_shard` is applied here rather than through
accelerate's plugin, which takes no CPU group (so no test without GPUs) and wraps by class: the modulations of all
blocks are computed outside the blocks, at once, so they must be units of their own.
"""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from refine_ops.errors import JobError
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.denoiser import Denoiser


def join_group(config: TrainLoraConfig, run: Path) -> Any:
    """The process group, one device per rank.

    Raises:
        JobError: the batch cannot be shared equally, or the tracker is not installed.
    """
    tracker = None if config.run.tracker == "none" else config.run.tracker
    try:
        accelerator = Accelerator(cpu=config.model.device == "cpu", log_with=tracker, project_dir=run / "logs")
        accelerator.init_trackers("train")
    except (ImportError, ValueError) as error:
        raise JobError(f"run.tracker {tracker!r}: {error}; install it, or set run.tracker to 'none'") from error
    samples = config.run.micro_batch * accelerator.num_processes
    if config.run.batch_size % samples:
        raise JobError(
            f"run.batch_size {config.run.batch_size} is not a multiple of run.micro_batch {config.run.micro_batch} x "
            f"{accelerator.num_processes} ranks; try {math.ceil(config.run.batch_size / samples) * samples}"
        )
    return accelerator


def shard(model: Denoiser, device: torch.device, ranks: int) -> None:
    """Split every parameter over `ranks` devices, block by block: one whole block at a time is on the device."""
    mesh = init_device_mesh(device.type, (ranks,))
    for wrapper, block in zip(model.blocks, model.transformer.transformer_blocks, strict=True):
        for unit in (block.img_mod, block.txt_mod, wrapper):
            fully_shard(unit, mesh=mesh)
    # The root reaches every block a second time, through the transformer.
    done = {parameter for wrapper in model.blocks for parameter in wrapper.parameters()}
    fully_shard(model, mesh=mesh, ignored_params=done)
