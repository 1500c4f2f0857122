"""The transformer's forward pass for training: every sample at its own time, dense or sparse targets."""

from typing import Any

import torch
import torch.nn.functional as F

from refine_ops.model.transformer import Context


def velocity(model: Any, context: Context, sigma: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Velocity at the noisy target tokens; the same function as `QwenImageTransformer2DModel.forward`.

    Args:
        context: Of `model.transformer.context`: text, condition images and positions.
        sigma: `float32 (B,)` in [0, 1], the time of each sample.
        noisy: `(B, T, 4C)`.

    Returns:
        `(B, T, 4C)`.
    """
    time = model.time_text_embed(sigma, noisy)
    image = torch.cat([model.img_in(noisy), context.condition], dim=1)
    text, count = context.text, noisy.shape[1]
    for block in model.transformer_blocks[:-1]:
        image, text = _block(block, image, text, time, context, image.shape[1])
    image, _ = _block(model.transformer_blocks[-1], image, text, time, context, count)
    result: torch.Tensor = model.proj_out(model.norm_out(image, time))
    return result


def _block(
    block: Any, image: torch.Tensor, text: torch.Tensor, time: torch.Tensor, context: Context, read: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One block; only the first `read` image tokens are computed (all but the last block need all)."""
    image_mod = block.img_mod(time)[:, None].chunk(6, dim=-1)
    text_mod = block.txt_mod(time)[:, None].chunk(6, dim=-1)
    normed = _modulate(block.img_norm1(image), image_mod[0], image_mod[1])
    normed_text = _modulate(block.txt_norm1(text), text_mod[0], text_mod[1])
    attended, attended_text = _attend(block.attn, normed, normed_text, context, read)
    image = image[:, :read] + image_mod[2] * attended
    image = image + image_mod[5] * block.img_mlp(_modulate(block.img_norm2(image), image_mod[3], image_mod[4]))
    text = text + text_mod[2] * attended_text
    text = text + text_mod[5] * block.txt_mlp(_modulate(block.txt_norm2(text), text_mod[3], text_mod[4]))
    return image, text


def _modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def _attend(
    attn: Any, image: torch.Tensor, text: torch.Tensor, context: Context, read: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint attention of text and image tokens."""
    length = text.shape[1]

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], attn.heads, -1)

    query = torch.cat(
        [attn.norm_added_q(heads(attn.add_q_proj(text))), attn.norm_q(heads(attn.to_q(image[:, :read])))], dim=1
    )
    key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(text))), attn.norm_k(heads(attn.to_k(image)))], dim=1)
    value = torch.cat([heads(attn.add_v_proj(text)), heads(attn.to_v(image))], dim=1)
    joint = F.scaled_dot_product_attention(
        _rotate(query, context).transpose(1, 2),
        _rotate(key, context).transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=context.mask,
    )
    joint = joint.transpose(1, 2).flatten(2)
    return attn.to_out[0](joint[:, length:]), attn.to_add_out(joint[:, :length])


def _rotate(x: torch.Tensor, context: Context) -> torch.Tensor:
    """RoPE with real numbers: pairs of channels of `(B, tokens, heads, head_dim)` turned by their positions."""
    cosine, sine = (part[:, : x.shape[1]].to(x.dtype) for part in context.rotation)
    even, odd = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
