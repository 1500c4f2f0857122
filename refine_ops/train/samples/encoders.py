"""Parts of a pipeline, loaded apart: the encoders for the cache, then the transformer for training.

Both together would hold 16 GiB of encoders on every device for the whole training.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor

from refine_ops.errors import JobError
from refine_ops.model.inputs import InputSpec
from refine_ops.model.load import Networks
from refine_ops.model.lora import fuse_loras
from refine_ops.model.network.vae import OneFrameVae
from refine_ops.model.prompts import PromptEncoder
from refine_ops.model.source import ResolvedModel

_ENCODING: Final = ("weights.vae", "weights.text_encoder", "weights.processor", "weights.tokenizer")
_LIBRARIES: Final = ("version.torch", "version.diffusers", "version.transformers", "version.pillow")


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
    return "\n".join([str(dtype), *(f"{name} {fingerprint[name]}" for name in (*_ENCODING, *_LIBRARIES))])


def load_encoders(model: ResolvedModel, device: torch.device, dtype: torch.dtype, target_ring: int) -> Encoders:
    """Load VAE, text encoder and processor; the transformer stays without memory.

    Raises:
        JobError: a part is missing or does not fit into memory.
    """
    folder, placed = model.folder, _placed(device, dtype)
    with _named_failures(model):
        config = QwenImageTransformer2DModel.load_config(folder / "transformer", local_files_only=True)
        with torch.device("meta"):
            transformer = QwenImageTransformer2DModel.from_config(config)
        pipeline = QwenImageEditPlusPipeline(
            transformer=transformer,
            vae=OneFrameVae.of(AutoencoderKLQwenImage.from_pretrained(folder / "vae", **placed)),
            text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", **placed),
            tokenizer=Qwen2Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            processor=Qwen2VLProcessor.from_pretrained(folder / "processor", local_files_only=True),
            scheduler=_scheduler(model),
        )
    networks = Networks.of(pipeline)
    spec = InputSpec(
        preset=model.preset,
        processor=networks.processor,
        template=networks.template,
        template_tokens=networks.template_tokens,
        latent_px=networks.latent_px,
        latent_channels=transformer.config.in_channels // 4,
        negative_prompt=None,
        target_ring=target_ring,
    )
    return Encoders(spec, networks.vae, PromptEncoder(networks, device), device)


def load_trainee(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Trainee:
    """Load the transformer, the base's own adapters fused, and the VAE (250 MB at full size).

    Raises:
        JobError: a part is missing, an adapter does not fit, or memory runs out.
    """
    changed = {} if model.preset.zero_cond_t is None else {"zero_cond_t": model.preset.zero_cond_t}
    with _named_failures(model):
        transformer = QwenImageTransformer2DModel.from_pretrained(
            model.folder / "transformer", **_placed(device, dtype), **changed
        )
        vae = AutoencoderKLQwenImage.from_pretrained(model.folder / "vae", **_placed(device, dtype))
    fuse_loras(transformer, model.loras)
    latent_px = int(2 ** len(vae.temperal_downsample))
    return Trainee(transformer, OneFrameVae.of(vae), _scheduler(model), latent_px)


def _placed(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True, "device_map": {"": str(device)}}


def _scheduler(model: ResolvedModel) -> Any:
    return FlowMatchEulerDiscreteScheduler.from_pretrained(model.folder / "scheduler", local_files_only=True)


@contextlib.contextmanager
def _named_failures(model: ResolvedModel) -> Iterator[None]:
    """Turn what loading raises into a JobError that names the folder."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise JobError(f"the model in {model.folder} does not fit into device memory: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise JobError(f"the model in {model.folder} cannot be loaded: {error}") from error
