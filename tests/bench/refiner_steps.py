"""Denoising steps and stages alone, with their work counted and two ceilings of this device measured."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from refiner_setup import Setup

from refine_ops.config import ModelSettings
from refine_ops.model import stages
from refine_ops.model.inputs import PICTURE
from refine_ops.model.load import Networks
from refine_ops.model.network import transformer as fast
from refine_ops.model.network.fp8 import quantize_linears
from refine_ops.model.speed import accelerate, best_attention, compiled

MODES = ("stock", "fast", "compiled", "sparse", "fp8")
"""diffusers' own pass; ours, eager; ours, compiled; compiled over a quarter of the crop; fp8 linears, which stay."""
_GPU_MODES = ("compiled", "fp8")
TOKEN_LIMIT = 66_000
"""Larger batches show nothing new: rates are flat above 8k tokens."""


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of `work` after one warm-up, the device's queue drained."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def ceilings(setup: Setup, repeats: int) -> tuple[float, float]:
    """FLOP/s of a large matrix product and of attention at 16k tokens (1k on a CPU), measured."""
    large, tokens = (8192, 16_384) if setup.device.type == "cuda" else (1024, 1024)
    a, b = (torch.randn(large, large, device=setup.device, dtype=setup.dtype) for _ in range(2))
    q = torch.randn(1, 24, tokens, 128, device=setup.device, dtype=setup.dtype)
    product = 2 * large**3 / seconds_of(lambda: a @ b, setup.device, repeats)
    with best_attention(setup.device):
        attention = seconds_of(lambda: F.scaled_dot_product_attention(q, q, q), setup.device, repeats)
    return product, 4 * 24 * 128 * tokens**2 / attention


def work_of(model: Any, tokens: int) -> tuple[int, int]:
    """FLOP per item and pass in matrix products and in attention: 13.59 G x N and 737,280 x N^2 at full size."""
    layers, dim = len(model.transformer_blocks), model.inner_dim
    return 24 * dim * dim * layers * tokens, 4 * dim * layers * tokens * tokens


@torch.no_grad()
def measure_steps(
    setup: Setup,
    repeats: int,
    modes: Sequence[str] | None,
    sides: Sequence[int] | None,
    save: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Every mode at every size, `save` given the rows so far after each.

    3 images are crop, mask and target, 4 have a reference, `sparse` has crop and 25 %.
    """
    networks = Networks.of(setup.pipeline())
    model, token_px = networks.transformer, 2 * networks.latent_px
    product, attention = ceilings(setup, repeats)
    print(f"ceilings: matrix product {product / 1e12:.3g}, attention {attention / 1e12:.3g} TFLOP/s")
    rows = []
    gpu = setup.device.type == "cuda"
    for mode in [mode for mode in MODES if mode in (modes or MODES) and (gpu or mode not in _GPU_MODES)]:
        if mode == "fp8":
            quantize_linears(model)
        block = compiled(fast.block_forward, ModelSettings(compile=gpu and mode not in ("stock", "fast")), setup.device)
        for images, side, batch in itertools.product(
            (2,) if mode == "sparse" else (3, 4), sides or setup.sides, setup.batches
        ):
            row = _measure(setup, model, mode, block, images, side // token_px, batch, (product, attention), repeats)
            if row:
                rows.append(row)
                save(rows)
    return rows


def _measure(
    setup: Setup, model: Any, mode: str, block: fast.BlockForward, images: int, rows: int, batch: int,
    rates: tuple[float, float], repeats: int,
) -> dict[str, Any] | None:  # fmt: skip
    grid, full = (1, rows, rows), rows * rows
    targets = full // 4 if mode == "sparse" else full
    tokens = targets + (images - 1) * full + setup.text_tokens
    if batch * tokens > TOKEN_LIMIT:
        return None
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(setup.device, setup.dtype)

    x = noise(batch, targets, model.config.in_channels)
    known = noise(batch, (images - 1) * full, model.config.in_channels)
    text, shapes = noise(batch, setup.text_tokens, model.config.joint_attention_dim), [grid] * images
    time_ = torch.full((1,), 0.5, device=setup.device, dtype=setup.dtype)
    index = torch.arange(targets, device=setup.device).expand(batch, -1) if mode == "sparse" else None
    if mode == "stock":
        step = lambda: model(  # noqa: E731
            hidden_states=torch.cat([x, known], dim=1), encoder_hidden_states=text, timestep=time_.expand(batch),
            img_shapes=[shapes] * batch, return_dict=False,
        )  # fmt: skip
    else:
        mods, context = fast.modulations(model, time_), fast.context(model, text, None, known, shapes, index)
        step = lambda: fast.velocity(model, block, mods, 0, context, x)  # noqa: E731
    with best_attention(setup.device):
        seconds = seconds_of(step, setup.device, repeats)
    linear, quadratic = work_of(model, tokens)
    floor = batch * (linear / rates[0] + quadratic / rates[1])
    print(
        f"{mode:>8} {images} x {full:>4} tokens, batch {batch:>2}: {seconds:.4f} s, {seconds / batch:.4f} per item, "
        f"{batch * (linear + quadratic) / seconds / 1e12:.3g} TFLOP/s, floor {floor:.4f} s ({floor / seconds:.0%})"
    )
    return {
        "mode": mode, "images": images, "tokens": full, "batch": batch, "s_per_step": seconds, "floor_s": floor,
        "tflop_per_s": batch * (linear + quadratic) / seconds / 1e12,
    }  # fmt: skip


@torch.no_grad()
def measure_stages(setup: Setup, repeats: int) -> dict[str, float]:
    """Prompt, latents of one and three images, decoding: seconds per item; the VAE as shipped and one-frame."""
    pipeline = setup.pipeline()
    networks = Networks.of(pipeline)
    pictures = 3 * (PICTURE.format(1),)
    figures = {"prompt, 3 pictures": _prompt_seconds(setup, networks, "".join(pictures), repeats)}
    for name in ("stock VAE", "one-frame VAE"):
        if name == "one-frame VAE":
            networks = accelerate(networks, ModelSettings(), setup.device)
        image = torch.randint(0, 256, (1, 3, setup.side, setup.side), dtype=torch.uint8, device=setup.device)
        for count in (1, 3):
            batch = image.expand(count, -1, -1, -1)
            figures[f"{name}, encode {count}"] = seconds_of(
                lambda batch=batch, vae=networks.vae: stages.encode_images(vae, batch), setup.device, repeats
            )
        latents = stages.encode_images(networks.vae, image)
        figures[f"{name}, decode"] = seconds_of(
            lambda latents=latents, vae=networks.vae: stages.decode(vae, latents), setup.device, repeats
        )
    for name, seconds in figures.items():
        print(f"{name}: {seconds:.4f} s")
    return figures


def _prompt_seconds(setup: Setup, networks: Networks, pictures: str, repeats: int) -> float:
    from PIL import Image

    from refine_ops.model.sizes import fit_size

    size = fit_size(setup.preset.vlm_pixels, 1.0, setup.preset.vlm_grid_px)
    features = networks.processor.image_processor(images=[Image.new("RGB", size)] * 3, return_tensors="pt")
    count = int(features["image_grid_thw"][0].prod()) // networks.processor.image_processor.merge_size**2
    pad = networks.processor.image_token
    text = networks.template.format(pictures.replace(pad, pad * count) + "Refine the logo.")
    ids = networks.processor.tokenizer(text, return_tensors="pt")["input_ids"].to(setup.device)
    return seconds_of(
        lambda: stages.encode_prompts(
            networks.text_encoder, ids, torch.ones_like(ids), features["pixel_values"].to(setup.device),
            features["image_grid_thw"].to(setup.device), networks.template_tokens,
        ),
        setup.device, repeats,
    )  # fmt: skip
