"""The doctor's numerics: attention kernels, prompt positions, `zero_cond_t`, and a whole small refinement."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from refine_ops.config import ModelSettings
from refine_ops.model.doctor import selftest
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.load import Networks, model_dtype
from refine_ops.model.presets import Preset
from refine_ops.model.refiner import StagedRefiner, build_refiner
from refine_ops.records import Conditioning


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One fact; `remedy` says what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def check_attention(device: torch.device) -> Iterator[CheckResult]:
    """Which attention kernels run here, against the plain one, on one small problem."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 256, 128, generator=generator).to(device, dtype) for _ in range(3))
    with sdpa_kernel(SDPBackend.MATH):
        exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    working: list[str] = []
    wrong: list[str] = []
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                result = F.scaled_dot_product_attention(q, k, v)
        except RuntimeError:
            continue
        name = backend.name.removesuffix("_ATTENTION").lower()
        (working if torch.allclose(result.float(), exact, atol=0.02) else wrong).append(name)
    yield CheckResult(
        "attention kernels",
        not wrong,
        f"{', '.join(working) or 'only the plain one'}" + (f"; WRONG: {', '.join(wrong)}" if wrong else ""),
        "update torch or the driver: an attention kernel computes wrong values" if wrong else "",
    )


@torch.no_grad()
def check_positions() -> Iterator[CheckResult]:
    """Our prompt embeddings against the published position rule; diffusers' own for information."""
    networks = Networks.of(random_pipeline())
    refiner = _small_refiner("reference", torch.device("cpu"))
    item = refiner.prepare(_small_item())
    ids, model = item.prompt.ids, networks.text_encoder
    images = {"pixel_values": item.pixel_values, "image_grid_thw": item.grid_thw, "output_hidden_states": True}
    positions = selftest.image_positions(ids, item.grid_thw, model.config.image_token_id)
    right = model(input_ids=ids[None], position_ids=positions, **images).hidden_states[-1]
    types = (ids == model.config.image_token_id).int()[None]
    ours = model(input_ids=ids[None], mm_token_type_ids=types, **images).hidden_states[-1]
    theirs = model(input_ids=ids[None], **images).hidden_states[-1]
    error, stock = float((ours - right).abs().max()), float((theirs - right).abs().max())
    yield CheckResult(
        "image positions in prompts",
        error < selftest.TOLERANCE,
        f"error {error:.1e} (a stock diffusers pipeline on these libraries: {stock:.1e})",
        "" if error < selftest.TOLERANCE else "install a transformers version in the declared range",
    )


def check_zero_cond_t() -> Iterator[CheckResult]:
    for flag in (False, True):
        recorded = selftest.recorded_velocity(flag)
        model = selftest.seeded_transformer(zero_cond_t=flag)
        for name, velocity in (("diffusers", selftest.diffusers_velocity), ("fast", selftest.fast_velocity)):
            error = float((velocity(model) - recorded).abs().max())
            yield CheckResult(
                f"zero_cond_t {flag}, {name}",
                error < selftest.TOLERANCE,
                f"error {error:.1e} against the recorded velocity",
                "" if error < selftest.TOLERANCE else "install a diffusers version in the declared range",
            )


def check_refinement(device: torch.device) -> Iterator[CheckResult]:
    """A whole refinement: fast on `device` in its dtype, against the reference in fp32 on the CPU."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return
    item = _small_item()
    exact = _small_refiner("reference", torch.device("cpu")).refine([item])[0].pixels
    fast = _small_refiner("fast", device).refine([item])[0].pixels
    error, bound = float(np.abs(fast - exact).mean()), 0.02 if device.type == "cuda" else selftest.TOLERANCE
    yield CheckResult(
        f"refinement on {device}",
        error < bound,
        f"mean error {error:.1e} (bound {bound:g})",
        "" if error < bound else "set speed 'reference' to compare, and report this with the file that doctor wrote",
    )


def _small_refiner(speed: Any, device: torch.device) -> StagedRefiner:
    settings = ModelSettings(speed=speed)
    dtype = model_dtype(settings, device)
    networks = Networks.of(random_pipeline(zero_cond_t=True).to(device, dtype))
    preset = Preset(source="random", steps=2, true_cfg_scale=1.0, vlm_pixels=64 * 64)
    return build_refiner(networks, preset, settings, device, {})


def _small_item() -> Conditioning:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[20:40, 30:60] = True
    return Conditioning(image, mask, mask, "Refine the logo.", 0, image[:, ::-1].copy())
