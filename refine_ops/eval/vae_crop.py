"""The observation behind Focus-and-Refine (Fig. 3): under one pixel budget, a VAE reconstructs a region better from
its crop, resized to the budget, than from the whole image.

Both ways start from the same pixels: the image at the budget's own resolution. The whole image goes through the VAE as
it is; the crop is enlarged to the budget, goes through the VAE, and is shrunk back. No information is added.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import torch

from refine_ops import storage
from refine_ops.data.synthetic.assets import DEMO_PHOTOS
from refine_ops.errors import JobError
from refine_ops.eval.config import VaeCropConfig
from refine_ops.eval.stats import Interval, cluster_interval
from refine_ops.eval.tables.layout import ResultRow, ResultTable
from refine_ops.eval.tables.plot import curves_svg
from refine_ops.eval.tables.render import as_markdown
from refine_ops.image.difference import psnr
from refine_ops.image.formats.table import sniff
from refine_ops.image.read import decode_rgb
from refine_ops.model.network.vae import OneFrameVae
from refine_ops.model.pretrained import load, pick_device
from refine_ops.records import U8Image

GRID_PX = 32


@dataclass(frozen=True, slots=True)
class ShareResult:
    """Regions whose side is `share` of the image's: PSNR in dB of the region each way, and the paired gain."""

    share: float
    whole: Interval
    crop: Interval
    gain: Interval


def vae_crop(config: VaeCropConfig) -> list[ShareResult]:
    """Measure, and write table.md, table.json and plot.svg at `config.out`.

    Raises:
        JobError: no VAE or no images there.
    """
    device = pick_device()
    vae, pixels = open_vae(config, device)
    images = [_square(image, pixels) for image in _images(config)]
    rng = np.random.default_rng(config.seed)
    whole = [reconstruct(vae, [image], device)[0] for image in images]
    rows: dict[float, list[tuple[int, float, float]]] = {share: [] for share in config.shares}
    for number, image in enumerate(images):
        side = image.shape[0]
        for share in config.shares:
            length = max(8, round(side * share))
            corners = rng.integers(0, side - length + 1, (config.regions, 2)).tolist()
            truth, seen = ([i[y : y + length, x : x + length] for x, y in corners] for i in (image, whole[number]))
            focused = _through_crops(vae, truth, side, device)
            rows[share] += [(number, psnr(t, s), psnr(t, f)) for t, s, f in zip(truth, seen, focused, strict=True)]
    results = [_summary(share, found) for share, found in rows.items()]
    _write(config, results, pixels, len(images))
    return results


def open_vae(config: VaeCropConfig, device: torch.device) -> tuple[Any, int]:
    """The VAE of the named pipeline or folder in float32, and the budget in pixels.

    Raises:
        JobError: the folder is absent or holds no VAE, or a hub name is given without `allow_hub`.
    """
    source, pixels = config.model, config.pixels or 1024**2
    if config.model == "tiny":
        from refine_ops.model.tiny import VAE_PIXELS, WEIGHTS

        source, pixels = str(WEIGHTS), config.pixels or VAE_PIXELS
    nested = not Path(source).is_dir() or Path(source, "vae").is_dir()
    vae = load(
        diffusers.AutoModel, source, config.allow_hub, weights=True, half=False, subfolder="vae" if nested else None
    )
    if isinstance(vae, diffusers.AutoencoderKLQwenImage):
        vae = OneFrameVae.of(vae)  # the same images for 0.4 times the work
    return vae.to(device).eval().requires_grad_(False), pixels


@torch.inference_mode()
def reconstruct(vae: Any, images: Sequence[U8Image], device: torch.device) -> list[U8Image]:
    """`images`, all of one size, through the encoder's mode and the decoder."""
    stacked = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    video = isinstance(vae, diffusers.AutoencoderKLQwenImage | diffusers.AutoencoderKLWan)  # (n, 3, frames, h, w)
    encoded = vae.encode(stacked[:, :, None] if video else stacked).latent_dist.mode()
    decoded = vae.decode(encoded).sample
    flat = decoded[:, :, 0] if video else decoded
    bytes_ = ((flat.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(bytes_.permute(0, 2, 3, 1).cpu().numpy())


def _through_crops(vae: Any, regions: Sequence[U8Image], side: int, device: torch.device) -> list[U8Image]:
    """Square regions of one size, each enlarged to the budget, reconstructed and shrunk back."""
    length = regions[0].shape[0]
    enlarged = [np.asarray(cv2.resize(r, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8) for r in regions]
    made = reconstruct(vae, enlarged, device)
    return [np.asarray(cv2.resize(m, (length, length), interpolation=cv2.INTER_AREA), np.uint8) for m in made]


def _square(image: U8Image, pixels: int) -> U8Image:
    """The centre square at the budget's resolution, a multiple of `GRID_PX`."""
    side = max(GRID_PX, round(pixels**0.5 / GRID_PX) * GRID_PX)
    least = min(image.shape[:2])
    y, x = (image.shape[0] - least) // 2, (image.shape[1] - least) // 2
    method = cv2.INTER_AREA if least > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image[y : y + least, x : x + least], (side, side), interpolation=method), np.uint8)


def _images(config: VaeCropConfig) -> list[U8Image]:
    folder = storage.resolve(config.images) if config.images else str(DEMO_PHOTOS)
    found = []
    for uri in storage.list_files(folder):
        data = storage.read(uri, config.limits.max_bytes)
        if sniff(data) is not None:
            found.append(decode_rgb(data, name=uri, limits=config.limits))
    if not found:
        raise JobError(f"{folder}: holds no image")
    return found


def _summary(share: float, rows: Sequence[tuple[int, float, float]]) -> ShareResult:
    images, whole, crop = (np.array(column) for column in zip(*rows, strict=True))
    return ShareResult(
        share, cluster_interval(whole, images), cluster_interval(crop, images), cluster_interval(crop - whole, images)
    )


def _write(config: VaeCropConfig, results: Sequence[ShareResult], pixels: int, images: int) -> None:
    out = storage.resolve(config.out)
    rows = [ResultRow((f"{r.share:.0%}", *(_cell(i) for i in (r.whole, r.crop, r.gain)))) for r in results]
    header = ("Region side / image side", "whole image, dB", "crop, dB", "gain, dB")
    note = (
        f"PSNR of the region, VAE of {config.model}, budget {pixels:,} pixels, {images} images x {config.regions} "
        "regions; 95 % intervals clustered by image."
    )
    table = ResultTable("VAE reconstruction: whole image or crop (Fig. 3)", header, tuple(rows), (note,))
    storage.write(storage.join(out, "table.md"), as_markdown([table]).encode())
    storage.write(storage.join(out, "table.json"), json.dumps([asdict(r) for r in results], indent=1).encode())
    series = {"whole image": [r.whole for r in results], "crop": [r.crop for r in results]}
    shares = [r.share for r in results]
    svg = curves_svg("Region reconstructed by the VAE", "region side / image side", "PSNR, dB", shares, series)
    storage.write(storage.join(out, "plot.svg"), svg.encode())


def _cell(found: Interval) -> str:
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
