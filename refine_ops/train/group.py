"""The process group of a training: one device per rank, through accelerate."""

import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from refine_ops.errors import JobError
from refine_ops.train.config import TrainLoraConfig


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
