"""Train the tiny transformer: rectified flow on latents, weighted for what the picture shows.

The conditions leave little to chance, so one step from pure noise is enough, and for a model this small it is best:
what a step misjudges, the next takes for truth (measured with four and eight steps). Nine samples of ten are therefore
drawn at sigma = 1, the others between, where `x_t` is built from a guess between the damaged crop and the truth,
`x_t = (1 - s) guess + s noise`, while the velocity still points at the truth, `v = (x_t - x_0) / s`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from refine_ops.model.network import transformer as fast
from refine_ops.model.network import vae as one_frame
from refine_ops.model.stages import pack
from refine_ops.train.tiny.samples import RenderedBatch

ONE_STEP_SHARE = 0.9
"""Share of samples at sigma = 1."""
LEAST_SIGMA = 0.3
OUTSIDE_WEIGHT = 0.1
"""Weight of tokens that the paste-back throws away, in dense batches."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A batch as the transformer sees it: normalised latents as tokens, `(B, T, 4C)` each."""

    conditions: tuple[torch.Tensor, ...]
    target: torch.Tensor
    text: torch.Tensor
    text_mask: torch.Tensor
    chosen: torch.Tensor | None
    inside: torch.Tensor
    shapes: fast.Shapes


@torch.no_grad()
def encode_batch(vae: Any, batch: RenderedBatch, device: torch.device) -> TokenBatch:
    """Encode all images of a batch at once."""
    images = torch.cat([*batch.images, batch.target]).to(device)
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1)
    with torch.autocast(device.type, torch.bfloat16):
        raw = one_frame.encode(vae, images.float() / 127.5 - 1)
    tokens = torch.split(pack((raw.float() - mean) / std), len(batch.target))
    rows, columns = batch.target.shape[2] // 8, batch.target.shape[3] // 8
    return TokenBatch(
        conditions=tokens[:-1],
        target=tokens[-1],
        text=batch.text.to(device),
        text_mask=batch.text_mask.to(device),
        chosen=None if batch.chosen is None else batch.chosen.to(device),
        inside=batch.inside.to(device),
        shapes=[(1, rows, columns)] * (len(batch.images) + 1),
    )


@torch.no_grad()
def channel_weights(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Weight `(4C,)` of each token channel's error, mean 1: mostly by what the error does to the pixels.

    Measured by nudging each channel of normalised `latents` `(B, C, h, w)` by a tenth and decoding; a fifth of the
    weight is equal for all channels, so that the finest details are not given up.
    """
    mean = torch.tensor(vae.config.latents_mean, device=latents.device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=latents.device).view(1, -1, 1, 1)
    still = one_frame.decode(vae, latents * std + mean)
    gains = []
    for channel in range(latents.shape[1]):
        nudged = latents.clone()
        nudged[:, channel] += 0.1 * torch.randn(
            latents[:, channel].shape, generator=torch.Generator().manual_seed(channel)
        ).to(latents.device)
        gains.append(((one_frame.decode(vae, nudged * std + mean) - still) ** 2).mean())
    gain = torch.stack(gains)
    return (0.8 * gain / gain.mean() + 0.2).repeat_interleave(4)


def draw_sigma(count: int, generator: torch.Generator) -> torch.Tensor:
    """`ONE_STEP_SHARE` of the times are 1, the others uniform down to `LEAST_SIGMA`."""
    between = LEAST_SIGMA + (1 - LEAST_SIGMA) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < ONE_STEP_SHARE, torch.ones(count), between)


def velocity(model: Any, context: fast.Context, sigma: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Velocity `(B, T, 4C)` at the noisy target tokens, every sample at its own time `sigma` `(B,)` in [0, 1]."""
    return fast.velocity(model, fast.block_forward, fast.modulations(model, sigma[None]), 0, context, noisy)


def loss_of(
    model: Any, batch: TokenBatch, weights: torch.Tensor, generator: torch.Generator, run: Any = velocity
) -> torch.Tensor:
    """Mean weighted squared error of the implied `x_0` (velocity's error times sigma).

    Args:
        weights: Of `channel_weights`.
        generator: CPU generator of noise and times.
        run: `velocity` or its compiled form.
    """
    device = batch.target.device
    clean, crop = batch.target, batch.conditions[0]
    if batch.chosen is not None:
        index = batch.chosen[..., None].expand(-1, -1, clean.shape[2])
        clean, crop = clean.gather(1, index), crop.gather(1, index)
    count = len(clean)
    sigma = draw_sigma(count, generator).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    trust = torch.rand(count, 1, 1, generator=generator).to(device)
    time = sigma[:, None, None]
    noisy = (1 - time) * (trust * clean + (1 - trust) * crop) + time * noise
    with torch.autocast(device.type, torch.bfloat16):
        prepared = fast.context(
            model, batch.text, batch.text_mask, torch.cat(batch.conditions, 1), batch.shapes, batch.chosen
        )
        predicted = run(model, prepared, sigma, noisy)
    error = (noisy - time * predicted.float() - clean) ** 2
    place = torch.where(batch.inside, 1.0, OUTSIDE_WEIGHT)[..., None]
    loss: torch.Tensor = (error * weights * place).sum() / (place.sum() * error.shape[2])
    return loss


def replayed(fresh: Iterator[TokenBatch], keep: int, share: float, generator: torch.Generator) -> Iterator[TokenBatch]:
    """Mix batches seen before (with new noise they are new tasks) into `fresh`: rendering and encoding cost time too.

    Args:
        keep: How many batches are remembered.
        share: Share of batches that are repeats, once a tenth of the memory is filled.
    """
    memory: list[TokenBatch] = []
    while True:
        if len(memory) > keep // 10 and torch.rand((), generator=generator) < share:
            yield memory[int(torch.randint(len(memory), (), generator=generator))]
            continue
        batch = next(fresh)
        if len(memory) < keep:
            memory.append(batch)
        else:
            memory[int(torch.randint(keep, (), generator=generator))] = batch
        yield batch
