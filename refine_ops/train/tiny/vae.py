"""Train the tiny VAE: reconstruct synthetic targets, references and masks, starting from a patch transform."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from refine_ops.data import synthetic
from refine_ops.model.network import vae as one_frame
from refine_ops.model.tiny import shapes
from refine_ops.records import U8Image
from refine_ops.train.optimize import MovingAverage, load_parameters
from refine_ops.train.tiny import vae_start
from refine_ops.train.tiny.samples import rendered_ahead

log = logging.getLogger(__name__)
SIDE_PX = 64
BATCH = 12
LATENT_NOISE = 0.02
"""Noise added to latents in training, so that the decoder forgives the transformer small errors."""


class RenderedCrops(IterableDataset[torch.Tensor]):
    """Endless batches of crops, `float32 (B, 3, 64, 64)` in [-1, 1]: targets, references and some masks."""

    def __init__(self, recipe: synthetic.Recipe, folders: tuple[Path, ...]) -> None:
        self.recipe, self.folders = replace(recipe, size=(SIDE_PX, SIDE_PX), reference_share=0.4), folders

    def __iter__(self) -> Iterator[torch.Tensor]:
        torch.set_num_threads(1)
        library = synthetic.library("train", self.folders)
        rng, index = np.random.default_rng((self.recipe.seed, 11)), 0
        while True:
            pictures: list[U8Image] = []
            while len(pictures) < BATCH:
                sample = synthetic.render(index, self.recipe, library)
                index += 1
                pictures.append(sample.target)
                if sample.reference is not None:
                    pictures.append(sample.reference)
                if rng.random() < 0.1:
                    pictures.append(np.repeat(sample.mask[:, :, None], 3, axis=2).astype(np.uint8) * 255)
            stacked = torch.from_numpy(np.stack(pictures[:BATCH])).permute(0, 3, 1, 2)
            yield stacked.float() / 127.5 - 1


def train(
    minutes: float, recipe: synthetic.Recipe, folders: tuple[Path, ...], device: torch.device, seed: int = 0
) -> Any:
    """A trained VAE (`AutoencoderKLQwenImage` in fp32, its latents' mean and deviation in its configuration)."""
    batches = rendered_ahead(RenderedCrops(recipe, folders))
    sample = torch.cat([next(batches) for _ in range(12)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = shapes.new_vae()
    vae_start.start(vae, sample)
    one_frame.as_one_frame(vae).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    parameters = dict(vae.named_parameters())
    average, started, step = MovingAverage(parameters, 0.998, head_start=0), time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1 or step == 0:
        for group in optimizer.param_groups:
            group["lr"] = 8e-4 * min(1.0, (step + 1) / 400) * max(0.02, 1 - done) ** 0.7
        images = next(batches).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            latents = one_frame.encode(vae, images)
            restored = one_frame.decode(vae, latents + LATENT_NOISE * torch.randn_like(latents))
        error = restored.float() - images
        loss = error.square().mean() + 0.05 * error.abs().mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 0.1 if step > 300 else 0.5)
        optimizer.step()
        step += 1
        average.update(step)
        if step % 100 == 0:
            log.info("VAE step %d: %.2f dB", step, -10 * math.log10(float(error.detach().square().mean()) / 4))
    load_parameters(parameters, average.values)
    return with_statistics(vae.to("cpu").eval(), sample)


@torch.no_grad()
def with_statistics(vae: Any, images: torch.Tensor) -> Any:
    """Record the latents' mean and standard deviation over `images` in the configuration."""
    latents = one_frame.encode(vae, images)
    vae.register_to_config(
        latents_mean=[round(float(value), 5) for value in latents.mean((0, 2, 3))],
        latents_std=[round(float(value), 5) for value in latents.std((0, 2, 3))],
    )
    return vae
