"""The four stages around the networks: encode_prompts -> encode_images -> denoise -> decode.

Functions of tensors, batched over the items of one bucket, on whatever device the modules are. Latents are normalised
(`(z - mean) / std`) everywhere outside the VAE. Axes: B items, C latent channels, h x w latents, L text tokens,
T target tokens, N condition tokens, D text features.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from refine_ops.errors import JobError

Velocity = Callable[[int, torch.Tensor], torch.Tensor]
"""`(step, x (B, T, 4C)) -> velocity (B, T, 4C)`, guidance included."""


def encode_prompts(
    text_encoder: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    pixel_values: torch.Tensor,
    grid_thw: torch.Tensor,
    template_tokens: int,
) -> torch.Tensor:
    """Conditioning tokens c (Eq. 1): the language model's last hidden states behind the template's system part.

    diffusers 0.42 leaves out `mm_token_type_ids`, without which transformers >= 5.3 numbers image tokens like text and
    the embeddings are silently wrong; it is given here. The vocabulary head, of which nothing is used, is skipped.

    Args:
        text_encoder: `Qwen2_5_VLForConditionalGeneration`.
        ids: `int64 (B, P + L)` token ids, padded on the right; P = `template_tokens`.
        mask: `int64 (B, P + L)`, 1 on tokens, 0 on padding.
        pixel_values: `float32 (patches, 1176)` of all images of all items, in order.
        grid_thw: `int64 (images, 3)`.

    Returns:
        `(B, L, D)` in the encoder's dtype, zero on padding.
    """
    model = text_encoder.model
    output = model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=pixel_values,
        image_grid_thw=grid_thw,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        use_cache=False,
    )
    hidden: torch.Tensor = output.last_hidden_state * mask[..., None].to(output.last_hidden_state.dtype)
    return hidden[:, template_tokens:]


def to_model_range(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`uint8 (B, 3, h, w)` to `dtype (B, 3, 1, h, w)` in [-1, 1]: one frame, as the video VAE wants it."""
    return (2.0 * (images.float() / 255.0) - 1.0).unsqueeze(2).to(dtype)


def encode_images(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Condition latents z (Eq. 2): the posterior's mode, normalised.

    Args:
        vae: `AutoencoderKLQwenImage`.
        images: `uint8 (B, 3, h, w)`, sides multiples of the VAE's scale.

    Returns:
        `(B, C, h / scale, w / scale)` in the VAE's dtype.
    """
    latents = vae.encode(to_model_range(images, vae.dtype)).latent_dist.mode()
    mean, std = latent_statistics(vae, latents)
    normalised: torch.Tensor = (latents - mean) / std
    return normalised[:, :, 0]


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Images from normalised latents `(B, C, h, w)`: `float32 (B, H, W, 3)` in [0, 1]."""
    mean, std = latent_statistics(vae, latents)
    # Written as the pipeline rounds it: divided by the reciprocal, not multiplied.
    raw = latents.unsqueeze(2) / (1.0 / std) + mean
    images: torch.Tensor = vae.decode(raw, return_dict=False)[0][:, :, 0]
    return (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()


def latent_statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents, each `(1, C, 1, 1, 1)` in `like`'s dtype."""
    config = vae.config
    return _statistics(tuple(config.latents_mean), tuple(config.latents_std), like.device, like.dtype)


@functools.lru_cache(maxsize=8)  # a copy to the device waits for it, twice a batch
def _statistics(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    made = (torch.tensor(values).view(1, -1, 1, 1, 1).to(device, dtype) for values in (mean, std))
    return next(made), next(made)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """`(B, C, h, w)` latents to `(B, h/2 * w/2, 4C)` tokens of 2 x 2, channels first inside a token."""
    b, c, h, w = latents.shape
    tokens = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack` for latents of `height` x `width`."""
    b, _, channels = tokens.shape
    latents = tokens.view(b, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(b, channels // 4, height, width)


def noise_schedule(scheduler: Any, steps: int, target_tokens: int, shift: float | None) -> torch.Tensor:
    """`float32 (steps + 1,)` sigmas from 1 to 0, shifted for a full grid of `target_tokens`.

    A constant `shift` replaces the resolution-dependent one and the stretch to `shift_terminal`: Lightning's schedule.

    Raises:
        JobError: The checkpoint's scheduler is not a deterministic FlowMatchEulerDiscreteScheduler.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name != "FlowMatchEulerDiscreteScheduler" or config.stochastic_sampling or config.invert_sigmas:
        raise JobError(
            f"the model's scheduler is {name} (stochastic_sampling {config.get('stochastic_sampling')}, invert_sigmas "
            f"{config.get('invert_sigmas')}); refinement needs a deterministic FlowMatchEulerDiscreteScheduler"
        )
    if shift is not None:
        scheduler = type(scheduler).from_config(config, use_dynamic_shifting=True, shift_terminal=None)
    else:
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        shift = target_tokens * slope + (config.base_shift - slope * config.base_image_seq_len)
        scheduler = type(scheduler).from_config(config)
    if scheduler.config.shift_terminal and steps == 1:
        raise JobError(f"one step cannot end at the schedule's shift_terminal {config.shift_terminal}; set steps >= 2")
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    sigmas: torch.Tensor = scheduler.sigmas
    return sigmas


def denoise(velocity: Velocity, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Euler's method from noise to the clean target, `(B, T, 4C)` in noise's dtype.

    The step is computed in fp32 and rounded to the model's dtype, as the scheduler of diffusers does.
    """
    x = noise
    for step in range(len(sigmas) - 1):
        change = velocity(step, x)
        x = (x.float() + (sigmas[step + 1] - sigmas[step]) * change).to(change.dtype)
    return x


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance `(B, T, 4C)`, rescaled per token to the conditional velocity's norm."""
    combined = unconditional + scale * (conditional - unconditional)
    norm = torch.linalg.vector_norm(conditional, dim=-1, keepdim=True)
    rescaled: torch.Tensor = combined * (norm / torch.linalg.vector_norm(combined, dim=-1, keepdim=True))
    return rescaled
