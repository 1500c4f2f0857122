"""`refine-ops doctor`: is this machine fit to refine with this model, and does it compute the right numbers?

Every finding is a fact, whether it is as it should be, and the remedy if not. Nothing is printed or written here.
"""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from packaging.requirements import Requirement
from torch.nn.attention import SDPBackend, sdpa_kernel

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import selftest
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.load import Networks, model_dtype
from refine_ops.model.presets import Preset
from refine_ops.model.random_weights import random_pipeline
from refine_ops.model.refiner import StagedRefiner, build_refiner
from refine_ops.model.source import ResolvedModel, resolve_model
from refine_ops.records import Conditioning

_LIBRARIES: Final = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors")
_ROOM: Final = 1.15
"""Device memory wanted, as a multiple of the weights: activations of one 1024^2 crop take about a tenth."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact; `remedy` says what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order they were made."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is off."""
        return all(finding.ok for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(settings: ModelSettings, device: torch.device) -> Diagnosis:
    """Examine libraries, device, files and numerics; the model itself is not loaded. Takes seconds plus hashing."""
    findings = [*_libraries(), *_device(device), *_attention(device)]
    try:
        model = resolve_model(settings)
    except JobError as error:
        findings.append(Finding(f"model {settings.model}", False, "not usable", str(error)))
    else:
        findings += [*_files(model, settings), *_memory(model, settings, device)]
    findings += [*_positions(), *_zero_cond_t(), *_refinement(device)]
    return Diagnosis(tuple(findings))


def _libraries() -> Iterator[Finding]:
    """Installed versions against the ranges this package declares."""
    yield Finding("python", True, platform.python_version())
    try:
        declared = [Requirement(line) for line in importlib.metadata.requires("refine-ops") or []]
    except importlib.metadata.PackageNotFoundError:
        declared = []
        yield Finding("refine-ops", True, "run from source: version ranges are not checked")
    ranges = {requirement.name: requirement.specifier for requirement in declared if requirement.marker is None}
    for name in _LIBRARIES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "missing", f"pip install '{name}{ranges.get(name, '')}'")
            continue
        fits = name not in ranges or ranges[name].contains(version, prereleases=True)
        yield Finding(name, fits, version, "" if fits else f"pip install '{name}{ranges[name]}'")


def _device(device: torch.device) -> Iterator[Finding]:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            yield Finding("device", False, "no CUDA device", "install a CUDA build of torch, or use --device cpu")
            return
        free, total = torch.cuda.mem_get_info(device)
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        yield Finding("device", True, f"{name}, compute capability {capability[0]}.{capability[1]}")
        yield Finding("device memory", True, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    else:
        yield Finding("device", True, f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")


def _attention(device: torch.device) -> Iterator[Finding]:
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
    yield Finding(
        "attention kernels",
        not wrong,
        f"{', '.join(working) or 'only the plain one'}" + (f"; WRONG: {', '.join(wrong)}" if wrong else ""),
        "update torch or the driver: an attention kernel computes wrong values" if wrong else "",
    )


def _files(model: ResolvedModel, settings: ModelSettings) -> Iterator[Finding]:
    yield Finding(f"model {settings.model}", True, str(model.folder))
    for key, value in fingerprint_model(model, settings).items():
        if key.startswith(("weights.", "lora.")):
            yield Finding(key, True, value)
    flag = model.preset.zero_cond_t
    yield Finding("zero_cond_t", True, "as the checkpoint's config says" if flag is None else f"set to {flag}")


def _memory(model: ResolvedModel, settings: ModelSettings, device: torch.device) -> Iterator[Finding]:
    """Whether the weights fit, taking the files to be bf16."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return
    size = sum(path.stat().st_size for path in model.folder.glob("*/*.safetensors"))
    wanted = size * _ROOM * (2 if model_dtype(settings, device) == torch.float32 else 1)
    free = torch.cuda.mem_get_info(device)[0]
    yield Finding(
        "room for the model",
        free >= wanted,
        f"{wanted / 2**30:.1f} GiB wanted, {free / 2**30:.1f} GiB free",
        "" if free >= wanted else "use a larger device, or free memory that other processes hold",
    )


@torch.no_grad()
def _positions() -> Iterator[Finding]:
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
    yield Finding(
        "image positions in prompts",
        error < selftest.TOLERANCE,
        f"error {error:.1e} (a stock diffusers pipeline on these libraries: {stock:.1e})",
        "" if error < selftest.TOLERANCE else "install a transformers version in the declared range",
    )


def _zero_cond_t() -> Iterator[Finding]:
    for flag in (False, True):
        recorded = selftest.recorded_velocity(flag)
        model = selftest.seeded_transformer(zero_cond_t=flag)
        for name, velocity in (("diffusers", selftest.diffusers_velocity), ("fast", selftest.fast_velocity)):
            error = float((velocity(model) - recorded).abs().max())
            yield Finding(
                f"zero_cond_t {flag}, {name}",
                error < selftest.TOLERANCE,
                f"error {error:.1e} against the recorded velocity",
                "" if error < selftest.TOLERANCE else "install a diffusers version in the declared range",
            )


def _refinement(device: torch.device) -> Iterator[Finding]:
    """A whole refinement: fast on `device` in its dtype, against the reference in fp32 on the CPU."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return
    item = _small_item()
    exact = _small_refiner("reference", torch.device("cpu")).refine([item])[0].pixels
    fast = _small_refiner("fast", device).refine([item])[0].pixels
    error, bound = float(np.abs(fast - exact).mean()), 0.02 if device.type == "cuda" else selftest.TOLERANCE
    yield Finding(
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
