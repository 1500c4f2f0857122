"""A pipeline of the real classes with seeded random weights: for tests, benches and the doctor's self-test.

Random weights cost and combine like trained ones, so shapes, parity and speed can be checked without a download.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from refine_ops.model.tiny.tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the three networks. `latent_scale` is 2 to the number of VAE levels less one."""

    layers: int
    heads: int
    head_dim: int
    rope_axes: tuple[int, int, int]
    vae_dim: int
    vae_mult: tuple[int, ...]
    text_dim: int
    text_layers: int
    text_heads: int
    text_kv_heads: int
    text_mlp: int
    vision_dim: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    full_attention: tuple[int, ...]


SMALL = Architecture(
    layers=2, heads=2, head_dim=24, rope_axes=(8, 8, 8), vae_dim=8, vae_mult=(1, 2, 2, 2), text_dim=32, text_layers=2,
    text_heads=2, text_kv_heads=1, text_mlp=64, vision_dim=32, vision_layers=2, vision_heads=2, vision_mlp=48,
    full_attention=(1,),
)  # fmt: skip
FULL = Architecture(
    layers=60, heads=24, head_dim=128, rope_axes=(16, 56, 56), vae_dim=96, vae_mult=(1, 2, 4, 4), text_dim=3584,
    text_layers=28, text_heads=28, text_kv_heads=4, text_mlp=18944, vision_dim=1280, vision_layers=32, vision_heads=16,
    vision_mlp=3420, full_attention=(7, 15, 23, 31),
)  # fmt: skip
"""Qwen-Image-Edit: a 20.4 B transformer, a 127 M VAE and the 8.3 B Qwen2.5-VL-7B."""


def random_pipeline(
    size: Architecture = SMALL,
    seed: int = 0,
    zero_cond_t: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> QwenImageEditPlusPipeline:
    """Build every module on `device` (default CPU) in `dtype`, filled from `seed`; the global generator is untouched.

    Another dtype or device draws other weights; convert a pipeline to compare the same ones.

    Matrices are drawn with variance 1 / fan-in and modulations small, so that activations keep their size through all
    layers and every part of the network influences the result.
    """
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            modules = {
                "transformer": _transformer(size, zero_cond_t),
                "vae": AutoencoderKLQwenImage(base_dim=size.vae_dim, z_dim=16, dim_mult=list(size.vae_mult)),
                "text_encoder": Qwen2_5_VLForConditionalGeneration(_text_config(size)),
            }
        finally:
            torch.set_default_dtype(default)
        for module in modules.values():
            fill_random(module.requires_grad_(False).eval())
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
        shift_terminal=0.02, time_shift_type="exponential",
    )  # fmt: skip
    tokenizer = byte_tokenizer()
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor()
    )
    return QwenImageEditPlusPipeline(scheduler=scheduler, tokenizer=tokenizer, processor=processor, **modules)


def byte_tokenizer() -> Qwen2Tokenizer:
    """One token per UTF-8 byte, and Qwen's special tokens after them."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary |= {token: len(vocabulary) + index for index, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    return tokenizer


def _transformer(size: Architecture, zero_cond_t: bool) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        num_layers=size.layers, num_attention_heads=size.heads, attention_head_dim=size.head_dim,
        joint_attention_dim=size.text_dim, axes_dims_rope=size.rope_axes, zero_cond_t=zero_cond_t,
    )  # fmt: skip


def _text_config(size: Architecture) -> Qwen2_5_VLConfig:
    first = len(ByteLevel.alphabet())
    ids = {token: first + index for index, token in enumerate(SPECIAL_TOKENS)}
    half = size.text_dim // size.text_heads // 2
    section = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152_064 if size is FULL else first + len(SPECIAL_TOKENS),
            "hidden_size": size.text_dim, "intermediate_size": size.text_mlp, "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads, "num_key_value_heads": size.text_kv_heads,
            "rms_norm_eps": 1e-6, "bos_token_id": None, "eos_token_id": ids["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        },
        vision_config={
            "depth": size.vision_layers, "hidden_size": size.vision_dim, "intermediate_size": size.vision_mlp,
            "num_heads": size.vision_heads, "out_hidden_size": size.text_dim,
            "fullatt_block_indexes": list(size.full_attention),
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip


@torch.no_grad()
def fill_random(module: torch.nn.Module) -> None:
    """Every parameter anew from the global generator; see `random_pipeline`."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2 or "norm" in name or name.endswith("gamma"):
            parameter.normal_(0.0, 0.02)
            if not name.endswith("bias"):
                parameter.add_(1.0)
        else:
            gain = 0.1 if "_mod." in name else 1.0
            parameter.normal_(0.0, gain / math.sqrt(parameter[0].numel()))
