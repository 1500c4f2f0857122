"""LoRA files: read strictly, fused once.

All deltas of one weight are summed in fp32 and rounded once, before compilation or quantisation. A file must fit
completely: a key that names no linear layer, a half of a pair, or a shape that does not fit stops the job, where
diffusers warns and leaves that part of the adapter out.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from refine_ops.errors import JobError
from refine_ops.model.source import header_of, parse_fields

_ADAPTER_METADATA: Final = "lora_adapter_metadata"
_PREFIXES: Final = ("transformer.", "diffusion_model.", "base_model.model.")
_KEY: Final = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight$")
_SIDE: Final = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


@dataclass(frozen=True, slots=True)
class Delta:
    """One layer's low-rank change: `scale * up @ down`, up `(out, rank)`, down `(rank, in)`."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


def read_lora(path: Path) -> dict[str, Delta]:
    """Read a LoRA in diffusers', PEFT's or Lightning's key style: module name -> delta.

    The scale is alpha / rank (alpha / sqrt(rank) for rank-stabilised adapters); alpha comes from the layer's `.alpha`
    tensor, else from the header's `alpha_pattern` or `lora_alpha`, else it equals the rank.

    Raises:
        JobError: An unknown key, an incomplete pair, or a DoRA adapter.
    """
    config = _adapter_config(header_of(path))
    halves: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 -- a safetensors handle is no mapping
            module, part = _parse(key, path)
            halves[module][part] = file.get_tensor(key)
    deltas = {}
    for module, parts in halves.items():
        if not {"down", "up"} <= parts.keys():
            raise JobError(f"LoRA {path}: {module} has only {', '.join(sorted(parts))}; the file is incomplete")
        rank = parts["down"].shape[0]
        alpha = float(parts["alpha"]) if "alpha" in parts else _alpha(config, module, rank)
        divisor = rank**0.5 if config.get("use_rslora") else rank
        deltas[module] = Delta(parts["down"], parts["up"], alpha / divisor)
    return deltas


@torch.no_grad()
def fuse_loras(transformer: Any, loras: Sequence[tuple[Path, float]]) -> None:
    """Add every LoRA `(file, scale)` to the transformer's weights.

    Raises:
        JobError: A file does not fit the transformer; nothing has been changed then.
    """
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    changes: dict[str, list[Delta]] = defaultdict(list)
    for path, scale in loras:
        deltas = read_lora(path)
        unknown = sorted(deltas.keys() - linears.keys())
        if unknown:
            raise JobError(
                f"LoRA {path} does not fit the model: {len(unknown)} of {len(deltas)} layers are not in the "
                f"transformer, first {unknown[0]!r}; it was made for another model"
            )
        for name, delta in deltas.items():
            shape, wanted = (delta.up.shape[0], delta.down.shape[1]), tuple(linears[name].weight.shape)
            if shape != wanted or delta.up.shape[1] != delta.down.shape[0]:
                raise JobError(f"LoRA {path}: {name} changes a {shape} weight, the model's is {wanted}")
            changes[name].append(Delta(delta.down, delta.up, delta.scale * scale))
    for name, stack in changes.items():
        weight = linears[name].weight
        total = weight.float()
        for delta in stack:
            total = total + delta.scale * (delta.up.to(weight.device).float() @ delta.down.to(weight.device).float())
        weight.copy_(total)


def _adapter_config(header: dict[str, str]) -> dict[str, Any]:
    """PEFT's LoraConfig as diffusers stores it, without the component prefix of its keys."""
    config = parse_fields(header.get(_ADAPTER_METADATA, "{}"), f"header entry {_ADAPTER_METADATA!r}")
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    if config.get("use_dora"):
        raise JobError("DoRA adapters are not supported: their magnitude vectors cannot be fused here; train a LoRA")
    return config


def _parse(key: str, path: Path) -> tuple[str, str]:
    name = key
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    match = _KEY.fullmatch(name)
    if match is None:
        raise JobError(f"LoRA {path}: {key!r} is not a key of a LoRA in diffusers' format (lora_A/lora_B or down/up)")
    return match["module"], _SIDE[match["part"]]


def _alpha(config: dict[str, Any], module: str, rank: int) -> float:
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        # PEFT's own rule: a pattern matches the end of the name at a dot, or all of it after `^`.
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(alpha)
    return float(config.get("lora_alpha", rank))
