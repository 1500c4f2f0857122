"""Held-out loss at fixed noise: per noise level, and in and off the boundary band."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refine_ops.train.config import LossSettings
from refine_ops.train.denoiser import Denoiser
from refine_ops.train.loss import boundary_loss, shifted
from refine_ops.train.samples.batches import BatchSpec, make_batch
from refine_ops.train.samples.cache import EncodedCache, Entry
from refine_ops.train.samples.draws import derive_seed


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Fixed entries, their samples' ids, and the midpoints of the noise levels looked at."""

    entries: tuple[tuple[Entry, str], ...]
    sigmas: tuple[float, ...]
    sparse: bool
    seed: int


def choose(
    entries: Sequence[tuple[Entry, str]], count: int, sigma_buckets: int, loss: LossSettings, sparse: bool, seed: int
) -> ValidationSet:
    """`count` of the held-out entries, the same ones for the same seed whatever else there is.

    Noise levels are the midpoints of equal parts of [0, 1], shifted as the training's are.
    """
    ordered = sorted(entries, key=lambda pair: derive_seed(seed, "choose", pair[1]))
    sigmas = tuple(shifted(loss, (bucket + 0.5) / sigma_buckets) for bucket in range(sigma_buckets))
    return ValidationSet(tuple(ordered[:count]), sigmas, sparse, seed)


@torch.no_grad()
def local_sums(
    model: Denoiser,
    held_out: ValidationSet,
    cache: EncodedCache,
    spec: BatchSpec,
    device: torch.device,
    rank: int,
    world: int,
) -> torch.Tensor:
    """This rank's share: sums and counts of the plain loss per noise level, then in the band, then off it.

    Every rank makes the same number of passes, for sharded weights are gathered by all of them together.

    Returns:
        `float64 (levels + 2, 2)`: sum and count.
    """
    levels = len(held_out.sigmas)
    sums = torch.zeros(levels + 2, 2, dtype=torch.float64)
    pairs = [(entry, name, level) for entry, name in held_out.entries for level in range(levels)]
    for start in range(0, len(pairs), world):
        position = start + rank
        entry, name, level = pairs[position % len(pairs)]
        seed = derive_seed(held_out.seed, "validation", name, level)
        batch = make_batch(cache, [entry], [name], [seed], held_out.sigmas[level], held_out.sparse, spec).to(device)
        predicted = model(
            batch.noisy, batch.condition, batch.text, batch.text_mask, batch.sigma, batch.shapes, batch.targets
        )
        if position >= len(pairs):
            continue
        parts = boundary_loss(predicted, batch.velocity, batch.band, spec.loss.boundary_alpha, batch.weight)
        for row, value in ((level, parts.plain), (levels, parts.band), (levels + 1, parts.interior)):
            if torch.isfinite(value):
                sums[row] += torch.tensor([value.item(), 1.0], dtype=torch.float64)
    return sums


def summarise(sums: torch.Tensor, held_out: ValidationSet) -> dict[str, float]:
    """Means of all ranks' sums: `validation_loss`, `..._band`, `..._interior`, `..._sigma_0.1000` and so on."""
    means = [float(total / count) if count else math.nan for total, count in sums.tolist()]
    levels = len(held_out.sigmas)
    values = {f"validation_sigma_{sigma:.4f}": means[level] for level, sigma in enumerate(held_out.sigmas)}
    total, count = sums[:levels].sum(0).tolist()
    return {
        "validation_loss": total / count if count else math.nan,
        "validation_band": means[levels],
        "validation_interior": means[levels + 1],
        **values,
    }
