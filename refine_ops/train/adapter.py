"""The adapter's file: diffusers' `pytorch_lora_weights.safetensors`, with what it was trained for in its header."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch
from safetensors.torch import save

from refine_ops.model.presets import Preset
from refine_ops.model.source import METADATA_KEY

TRAINING_KEY: Final = "refine_ops_training"
"""Header entry with the fingerprint of the training, as JSON; for people and for drift messages."""
_PREFIX: Final = "transformer."


def file_keys(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameter names of the denoiser to keys of diffusers' LoRA format, `transformer.<layer>.lora_A.weight`."""
    return {
        _PREFIX + name.removeprefix(_PREFIX).replace(".default.weight", ".weight"): tensor
        for name, tensor in parameters.items()
    }


def adapter_bytes(
    parameters: Mapping[str, torch.Tensor],
    *,
    rank: int,
    alpha: int,
    trained_as: Mapping[str, Any],
    fingerprint: Mapping[str, str],
    dtype: torch.dtype,
) -> bytes:
    """The safetensors file.

    Args:
        parameters: By the denoiser's names (`transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight`).
        trained_as: Fields of Preset that the refiner must run this adapter with.
        fingerprint: What it was trained on and with.
    """
    tensors = {key: t.detach().to("cpu", dtype).contiguous() for key, t in file_keys(parameters).items()}
    layers = sorted({key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for key in tensors})
    config = {"r": rank, "lora_alpha": alpha, "target_modules": layers, "lora_dropout": 0.0, "bias": "none"}
    header = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({_PREFIX + key: value for key, value in config.items()}, sort_keys=True),
        METADATA_KEY: json.dumps(dict(trained_as), sort_keys=True),
        TRAINING_KEY: json.dumps(dict(fingerprint), sort_keys=True),
    }
    return bytes(save(tensors, header))


def trained_as(preset: Preset, mixed_targets: bool) -> dict[str, Any]:
    """What the refiner must know to run the adapter as it was trained; with mixed targets both ways are open."""
    fields = asdict(preset)
    names = ["mask_image", "mask_pixels", "conditions"] + ([] if mixed_targets else ["targets"])
    return {name: fields[name] for name in names}
