"""Sizes of the tiny checkpoint's parts, as the configurations of the stock classes."""

from typing import Any

from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

LATENT_CHANNELS = 16
TOKEN_CHANNELS = 4 * LATENT_CHANNELS
TEXT_CHANNELS = 64
WIDTH = 256
HEAD_CHANNELS = 64
HEADS = WIDTH // HEAD_CHANNELS
LAYERS = 4
ROPE_CHANNELS = (8, 28, 28)
"""Channels of one head turned by the frame, the row and the column."""


def new_vae() -> AutoencoderKLQwenImage:
    """4 px per latent, 16 channels: 3 values of pixels per value of latents."""
    return AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, False],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def new_transformer() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=TOKEN_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=HEAD_CHANNELS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_CHANNELS,
        axes_dims_rope=ROPE_CHANNELS,
        zero_cond_t=False,
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The shift of the official inference, 3 whatever the size: `base_shift = max_shift = log 3`."""
    return FlowMatchEulerDiscreteScheduler(
        base_shift=1.0986122886681098,
        max_shift=1.0986122886681098,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        use_dynamic_shifting=True,
        shift=1.0,
        shift_terminal=None,
        time_shift_type="exponential",
    )


def new_text_encoder(special: dict[str, int], vocabulary: int) -> Qwen2_5_VLForConditionalGeneration:
    """Two narrow layers each for text and vision.

    Args:
        special: Token ids by name, as `tokenizer.new_processor` made them.
        vocabulary: Number of token ids.
    """
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_CHANNELS,
        "intermediate_size": 2 * TEXT_CHANNELS,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": special["<|im_end|>"],
        "pad_token_id": special["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": TEXT_CHANNELS,
        "intermediate_size": 2 * TEXT_CHANNELS,
        "num_heads": 4,
        "out_hidden_size": TEXT_CHANNELS,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)
