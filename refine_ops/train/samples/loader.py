"""One rank's share of the micro-batches, read ahead by processes of its own."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from refine_ops.train.config import RunSettings
from refine_ops.train.samples.batches import Batch, TrainingBatches


def micro_batches(run: RunSettings) -> int:
    """Micro-batches per optimizer step, over all ranks."""
    return run.batch_size // run.micro_batch


def rank_batches(batches: TrainingBatches, run: RunSettings, start: int, rank: int, ranks: int) -> Iterator[Batch]:
    """Micro-batches of `rank` from optimizer step `start` on: of every step's, each `ranks`-th one."""
    per_step = micro_batches(run)
    indices = [step * per_step + place for step in range(start, run.steps) for place in range(rank, per_step, ranks)]
    loader: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=indices,
        num_workers=run.loader_workers,
        prefetch_factor=4 if run.loader_workers else None,
        multiprocessing_context="spawn" if run.loader_workers else None,  # a fork of a threaded process may hang
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
