"""Pictures of held-out samples as the adapter refines them: input, result, target, side by side."""

import io
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import torch
from PIL import Image

from refine_ops.model import stages
from refine_ops.model.presets import Preset
from refine_ops.model.speed import best_attention
from refine_ops.records import U8Image
from refine_ops.train.denoiser import Denoiser
from refine_ops.train.samples.batches import BatchSpec, make_batch, unpack_regions
from refine_ops.train.samples.cache import EncodedCache, Entry
from refine_ops.train.samples.draws import derive_seed
from refine_ops.train.samples.encoders import Trainee

_CELL_PX: Final = 384
_OUTLINE: Final = (255, 0, 160)


@torch.no_grad()
def refine_entry(
    model: Denoiser,
    trainee: Trainee,
    cache: EncodedCache,
    entry: Entry,
    noise_seed: int,
    preset: Preset,
    spec: BatchSpec,
    device: torch.device,
) -> torch.Tensor:
    """Clean latents `(1, C, h, w)` by the preset's steps, without guidance, as the refiner makes them."""
    batch = make_batch(cache, [entry], [entry.key], [noise_seed], 1.0, preset.targets == "sparse", spec).to(device)
    known = cache.tensor(entry.images[0])[None].to(device)
    rows, columns = batch.shapes[0][1:]
    sigmas = stages.noise_schedule(trainee.scheduler, preset.steps, rows * columns, preset.shift)

    def velocity(step: int, x: torch.Tensor) -> torch.Tensor:
        sigma = sigmas[step : step + 1].to(device)
        predicted: torch.Tensor = model(
            x, batch.condition, batch.text, batch.text_mask, sigma, batch.shapes, batch.targets
        )
        return predicted

    with best_attention(device):
        clean = stages.denoise(velocity, batch.noise.to(known.dtype), sigmas)
    if batch.targets is not None:
        clean = stages.pack(known).scatter(1, batch.targets[..., None].expand(-1, -1, clean.shape[-1]), clean)
    return stages.unpack(clean, known.shape[2], known.shape[3])


@torch.no_grad()
def draw_grid(
    model: Denoiser,
    trainee: Trainee,
    cache: EncodedCache,
    entries: Sequence[tuple[Entry, str]],
    preset: Preset,
    spec: BatchSpec,
    device: torch.device,
    seed: int,
) -> bytes:
    """A PNG, one row per entry: input with the region outlined, result, target.

    Input and target are decoded from their latents, so what the VAE alone loses is in all three.
    """
    rows = []
    for entry, name in entries:
        clean = refine_entry(model, trainee, cache, entry, derive_seed(seed, "grid", name), preset, spec, device)
        before, after = (cache.tensor(place)[None].to(device) for place in (entry.images[0], entry.target))
        images = [stages.decode(trainee.vae, latents)[0].cpu().numpy() for latents in (before, clean, after)]
        mask, _ = unpack_regions(cache, entry)
        cells = [np.ascontiguousarray((np.nan_to_num(image) * 255).round().astype(np.uint8)) for image in images]
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(cells[0], contours, -1, _OUTLINE, 1)
        rows.append(np.concatenate([_cell(cell) for cell in cells], axis=1))
    sink = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(sink, "png")
    return sink.getvalue()


def _cell(image: U8Image) -> U8Image:
    """Fit into a square cell on grey."""
    height, width = image.shape[:2]
    zoom = _CELL_PX / max(height, width)
    size = (round(width * zoom), round(height * zoom))
    kernel = Image.Resampling.LANCZOS if zoom < 1 else Image.Resampling.NEAREST
    cell = np.full((_CELL_PX, _CELL_PX, 3), 128, np.uint8)
    cell[: size[1], : size[0]] = np.asarray(Image.fromarray(image).resize(size, kernel))
    return cell
