"""A pipeline's parts as a training takes them: first the encoders for the cache, then the transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from refine_ops.identity import ENCODING_PACKAGES
from refine_ops.model import load
from refine_ops.model.inputs import InputSpec
from refine_ops.model.network.vae import OneFrameVae
from refine_ops.model.run.prompts import PromptEncoder
from refine_ops.model.source import ResolvedModel

_ENCODING: Final = ("weights.vae", "weights.text_encoder", "weights.processor", "weights.tokenizer")


@dataclass(frozen=True, slots=True)
class Encoders:
    """What turns pixels and prompts into latents and embeddings."""

    spec: InputSpec
    vae: Any
    prompts: PromptEncoder
    device: torch.device


@dataclass(frozen=True, slots=True)
class Trainee:
    """What is trained, and what draws pictures of it: the VAE's decoder and the noise schedule."""

    transformer: Any
    vae: Any
    scheduler: Any
    latent_px: int


def encoding_identity(fingerprint: Mapping[str, str], dtype: torch.dtype) -> str:
    """What the encoders' output depends on besides its inputs: weights, dtype, library versions."""
    names = (*_ENCODING, *(f"version.{package}" for package in ENCODING_PACKAGES))
    return "\n".join([str(dtype), *(f"{name} {fingerprint[name]}" for name in names)])


def load_encoders(model: ResolvedModel, device: torch.device, dtype: torch.dtype, target_ring: int) -> Encoders:
    """VAE (one frame), text encoder and processor. Raises JobError as `refine_ops.model.load`."""
    networks = load.load_encoders(model, device, dtype)
    spec = InputSpec.of(networks, model.preset, negative_prompt=None, target_ring=target_ring)
    return Encoders(spec, OneFrameVae.of(networks.vae), PromptEncoder(networks, device), device)


def load_trainee(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Trainee:
    """The transformer, the base's own adapters fused, and the VAE (250 MB at full size).

    Raises JobError as `refine_ops.model.load`.
    """
    transformer, vae = load.load_transformer(model, device, dtype), load.load_vae(model, device, dtype)
    latent_px = load.latent_px(vae)
    return Trainee(transformer, OneFrameVae.of(vae), load.load_scheduler(model), latent_px)
