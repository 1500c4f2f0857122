"""The transformer's forward pass for many steps over many items: the same function, organised for reuse.

Against `QwenImageTransformer2DModel.forward` this keeps, per batch instead of per step: the embedded text and condition
tokens, positions and the attention mask; per schedule instead of per item: every block's modulation (a third of the
weights). Positions are real-valued, target tokens may be any subset of the grid, and the last block computes only what
is read. In fp32 the velocity is within 1e-5 of diffusers'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Shapes = list[tuple[int, int, int]]
"""`(1, rows, columns)` of every image in the sequence, target first, as diffusers' `img_shapes` has it."""
Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of every token's positions, `float32 (1 or B, tokens, 1, head_dim / 2)`."""


@dataclass(frozen=True, slots=True)
class Modulations:
    """Everything that depends on the timestep alone, for S steps; B is 1 where all items share their timesteps.

    `image` and `text` hold one `(S, B, 1, 6 * dim)` per block; `condition` likewise for tokens held at t = 0, or is
    empty where they are modulated like the target, and `text_at_zero` for a text held there, where asked for. `out` is
    `(S, B, 1, 2 * dim)`.
    """

    image: list[torch.Tensor]
    text: list[torch.Tensor]
    condition: list[torch.Tensor]
    out: torch.Tensor
    text_at_zero: list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Context:
    """What stays the same over the steps of one batch.

    `text` `(B, L, dim)` and `condition` `(B, N, dim)` are embedded; `rotation` is cosine and sine `float32
    (1 or B, L + T + N, 1, head_dim / 2)`; `mask` `bool (B, 1, 1, L + T + N)` or None.
    """

    text: torch.Tensor
    condition: torch.Tensor
    rotation: Rotation
    mask: torch.Tensor | None


BlockForward = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""`block_forward`, or what runs it otherwise: compiled, checkpointed, sharded."""
Part = tuple[torch.Tensor, torch.Tensor | None]
"""One of a block's six modulations, `(B or 1, 1, dim)`: for target tokens, and for conditions where theirs differs."""


def modulations(model: Any, timesteps: torch.Tensor, *, text_at_zero: bool = False) -> Modulations:
    """Modulation parameters of every block for `timesteps` in [0, 1], `(S,)`, or `(S, B)` if each item has its own.

    `text_at_zero` (with `zero_cond_t` only) gives the text's at t = 0 as well.
    """
    steps, flat = len(timesteps), timesteps.reshape(-1)
    zero = [flat * 0] if model.zero_cond_t else []
    embedded, *at_zero = model.time_text_embed(torch.cat([flat, *zero]), flat).split(len(flat))
    blocks = model.transformer_blocks

    def per_step(parameters: torch.Tensor) -> torch.Tensor:
        return parameters.view(steps, -1, 1, parameters.shape[-1])

    def held_at_zero(parameters: torch.Tensor) -> torch.Tensor:
        return parameters[:, None, None].expand(steps, -1, -1, -1)

    return Modulations(
        image=[per_step(block.img_mod(embedded)) for block in blocks],
        text=[per_step(block.txt_mod(embedded)) for block in blocks],
        condition=[held_at_zero(block.img_mod(at_zero[0][:1])) for block in blocks] if at_zero else [],
        out=per_step(model.norm_out.linear(model.norm_out.silu(embedded))),
        text_at_zero=[held_at_zero(block.txt_mod(at_zero[0][:1])) for block in blocks] if text_at_zero else [],
    )


def context(
    model: Any,
    text: torch.Tensor,
    text_mask: torch.Tensor | None,
    condition: torch.Tensor,
    shapes: Shapes,
    targets: torch.Tensor | None,
) -> Context:
    """Prepare one batch.

    Args:
        model: `QwenImageTransformer2DModel`.
        text: `(B, L, D)` prompt embeddings; `text_mask` `bool (B, L)` marks tokens, None means all.
        condition: `(B, N, 4C)` packed latents of the condition images, in order.
        shapes: Token grids, the target's first.
        targets: `int64 (B, T)` raster indices of the denoised tokens, None for the whole grid.
    """
    image_freqs, text_freqs = model.pos_embed([shapes], max_txt_seq_len=text.shape[1], device=text.device)
    grid = shapes[0][1] * shapes[0][2]
    target_freqs = image_freqs[None, :grid] if targets is None else image_freqs[targets]
    rows = target_freqs.shape[0]
    freqs = torch.cat(
        [text_freqs[None].expand(rows, -1, -1), target_freqs, image_freqs[None, grid:].expand(rows, -1, -1)], dim=1
    )
    count, known = target_freqs.shape[1], condition.shape[1]
    mask = None
    if text_mask is not None:
        mask = F.pad(text_mask, (0, count + known), value=True)[:, None, None]
    return Context(
        text=model.txt_in(model.txt_norm(text)),
        condition=model.img_in(condition),
        rotation=(freqs.real[:, :, None].contiguous(), freqs.imag[:, :, None].contiguous()),
        mask=mask,
    )


def velocity(
    model: Any, run_block: BlockForward, mods: Modulations, step: int, ctx: Context, x: torch.Tensor
) -> torch.Tensor:
    """Velocity `(B, T, 4C)` at the noisy target tokens `x` `(B, T, 4C)`, for step `step` of the schedule.

    The one loop over the blocks, for refining and for training; `run_block` is `block_forward` in some form.
    """
    image = torch.cat([model.img_in(x), ctx.condition], dim=1)
    text, targets = ctx.text, x.shape[1]
    last = len(model.transformer_blocks) - 1
    for index, block in enumerate(model.transformer_blocks):
        image, text = run_block(
            block,
            image,
            text,
            mods.image[index][step],
            mods.text[index][step],
            mods.condition[index][step] if mods.condition else None,
            ctx.rotation,
            ctx.mask,
            targets,
            index == last,
        )
    scale, shift = mods.out[step].chunk(2, dim=-1)
    hidden = model.norm_out.norm(image) * (1 + scale) + shift
    result: torch.Tensor = model.proj_out(hidden)
    return result


def block_forward(
    block: Any,
    image: torch.Tensor,
    text: torch.Tensor,
    image_mod: torch.Tensor,
    text_mod: torch.Tensor,
    condition_mod: torch.Tensor | None,
    rotation: Rotation,
    mask: torch.Tensor | None,
    targets: int,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One double-stream block (joint attention, then a feed-forward per stream), image `(B, T + N, dim)`, text alike.

    The first `targets` image tokens are the denoised ones. Of the last block nothing else is read: the conditions and
    the text are dropped.
    """
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts(image_mod, condition_mod)
    words = parts(text_mod, None)
    normed = modulated(block.img_norm1(image), shift, scale, targets)
    normed_text = modulated(block.txt_norm1(text), words[0], words[1], 0)
    only = targets if last else None
    attended, attended_text = _joint_attention(block.attn, normed, normed_text, rotation, mask, only)
    if last:
        image = image[:, :targets]
        gate, shift_mlp, scale_mlp, gate_mlp = ((part[0], None) for part in (gate, shift_mlp, scale_mlp, gate_mlp))
    image = image + gated(attended, gate, targets)
    hidden = block.img_mlp(modulated(block.img_norm2(image), shift_mlp, scale_mlp, targets))
    image = image + gated(hidden, gate_mlp, targets)
    if attended_text is not None:
        text = text + gated(attended_text, words[2], 0)
        hidden_text = block.txt_mlp(modulated(block.txt_norm2(text), words[3], words[4], 0))
        text = text + gated(hidden_text, words[5], 0)
    return image, text


def parts(mod: torch.Tensor, condition: torch.Tensor | None) -> list[Part]:
    """Shift, scale, gate of attention and of feed-forward."""
    of_condition = [None] * 6 if condition is None else condition.chunk(6, dim=-1)
    return list(zip(mod.chunk(6, dim=-1), of_condition, strict=True))


# Conditions lie behind the targets, so two slices are modulated. One modulation per token would be a tensor of 6 * dim
# per token and block: 453 MB at 12,288 tokens of the 20-B model.
def modulated(x: torch.Tensor, shift: Part, scale: Part, targets: int) -> torch.Tensor:
    if shift[1] is None or scale[1] is None:
        return x * (1 + scale[0]) + shift[0]
    return torch.cat([x[:, :targets] * (1 + scale[0]) + shift[0], x[:, targets:] * (1 + scale[1]) + shift[1]], dim=1)


def gated(x: torch.Tensor, gate: Part, targets: int) -> torch.Tensor:
    if gate[1] is None:
        return x * gate[0]
    return torch.cat([x[:, :targets] * gate[0], x[:, targets:] * gate[1]], dim=1)


def _joint_attention(
    attn: Any,
    image: torch.Tensor,
    text: torch.Tensor,
    rotation: Rotation,
    mask: torch.Tensor | None,
    only: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention over text and image tokens together; queries of the text are left out where `only` is set."""
    length = text.shape[1]
    key = rotated(torch.cat([text_key(attn, text), image_key(attn, image)], dim=1), rotation)
    value = torch.cat([text_value(attn, text), image_value(attn, image)], dim=1)
    if only is None:
        query = rotated(torch.cat([text_query(attn, text), image_query(attn, image)], dim=1), rotation)
    else:
        query = rotated(image_query(attn, image[:, :only]), between(rotation, length, length + only))
    joint = attend(query, key, value, mask)
    if only is not None:
        alone: torch.Tensor = attn.to_out[0](joint)
        return alone, None
    both: tuple[torch.Tensor, torch.Tensor] = attn.to_out[0](joint[:, length:]), attn.to_add_out(joint[:, :length])
    return both


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention of `(B, queries, heads, head_dim)` over `(B, keys, heads, head_dim)`: `(B, queries, dim)`."""
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return mixed.transpose(1, 2).flatten(2)


def _heads(attn: Any, x: torch.Tensor) -> torch.Tensor:
    return x.view(*x.shape[:-1], attn.heads, -1)


def image_query(attn: Any, x: torch.Tensor) -> torch.Tensor:
    """Of image tokens `(B, n, dim)`: `(B, n, heads, head_dim)`, like all of these; not rotated yet."""
    query: torch.Tensor = attn.norm_q(_heads(attn, attn.to_q(x)))
    return query


def image_key(attn: Any, x: torch.Tensor) -> torch.Tensor:
    key: torch.Tensor = attn.norm_k(_heads(attn, attn.to_k(x)))
    return key


def image_value(attn: Any, x: torch.Tensor) -> torch.Tensor:
    return _heads(attn, attn.to_v(x))


def text_query(attn: Any, x: torch.Tensor) -> torch.Tensor:
    query: torch.Tensor = attn.norm_added_q(_heads(attn, attn.add_q_proj(x)))
    return query


def text_key(attn: Any, x: torch.Tensor) -> torch.Tensor:
    key: torch.Tensor = attn.norm_added_k(_heads(attn, attn.add_k_proj(x)))
    return key


def text_value(attn: Any, x: torch.Tensor) -> torch.Tensor:
    return _heads(attn, attn.add_v_proj(x))


def between(rotation: Rotation, start: int, stop: int | None) -> Rotation:
    """The positions of the sequence's tokens `start` to `stop`."""
    return rotation[0][:, start:stop], rotation[1][:, start:stop]


def rotated(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate pairs of features of `(B, tokens, heads, head_dim)` by their positions, in fp32."""
    cosine, sine = rotation
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    return turned.flatten(-2).type_as(x)
