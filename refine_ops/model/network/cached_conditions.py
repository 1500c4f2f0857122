"""Conditions that attend to themselves alone, held at t = 0: what they are to the targets is computed once per batch.

The crop, the reference and the mask do not change between steps. Where they do not look at the noisy targets either,
their keys and values are the same in every step, so one pass over them (`prefill`) serves all steps, both branches of
guidance, and all seeds. The attention is block-causal:

    cached       conditions -> themselves;  text and targets -> everything
    cached+text  conditions -> themselves;  text -> itself and the conditions, at t = 0;  targets -> everything

It is another function than the joint attention that a released model was trained with: it needs a LoRA trained so.
Within 1e-5 (fp32) it is the joint pass under that attention mask with the conditions computed anew in every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from refine_ops.model.network.transformer import (
    Context,
    Modulations,
    Rotation,
    attend,
    between,
    gated,
    image_key,
    image_query,
    image_value,
    modulated,
    parts,
    rotated,
    text_key,
    text_query,
    text_value,
)

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""One block's keys (positions applied) and values, `(B, tokens, heads, head_dim)` each."""
RunBlock = Callable[..., Any]
"""`(block_function, block, *arguments)`: calls it, in some form: compiled, checkpointed, sharded."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What targets look at that stays the same over the steps, a `KeyValue` per block; `text` is empty where the text
    takes part in the steps."""

    condition: list[KeyValue]
    text: list[KeyValue]


def plain(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a block as it is."""
    return function(*arguments)


def cache_bytes(model: Any, tokens: int, itemsize: int) -> int:
    """Bytes that `tokens` cached tokens take: 737,280 each at Qwen-Image-Edit's size in bf16."""
    per_token: int = 2 * len(model.transformer_blocks) * model.inner_dim * itemsize
    return per_token * tokens


def prefill_conditions(model: Any, run: RunBlock, mods: Modulations, ctx: Context) -> list[KeyValue]:
    """One pass over the condition tokens. They see no text, so that it serves every prompt over the same pictures."""
    known, made = ctx.condition, []
    rotation = between(ctx.rotation, ctx.rotation[0].shape[1] - known.shape[1], None)
    last = len(model.transformer_blocks) - 1
    for index, block in enumerate(model.transformer_blocks):
        known, key, value = run(condition_block, block, known, mods.condition[index][0], rotation, index == last)
        made.append((key, value))
    return made


def prefill_text(
    model: Any, run: RunBlock, mods: Modulations, ctx: Context, condition: list[KeyValue]
) -> list[KeyValue]:
    """One pass over the text, held at t = 0, which sees itself and the conditions."""
    text, made = ctx.text, []
    length, known = text.shape[1], ctx.condition.shape[1]
    mask = ctx.mask
    if mask is not None:
        mask = torch.cat([mask[..., :length], mask[..., mask.shape[-1] - known :]], dim=-1)
    rotation, last = between(ctx.rotation, 0, length), len(model.transformer_blocks) - 1
    for index, block in enumerate(model.transformer_blocks):
        text, key, value = run(
            text_block, block, text, mods.text_at_zero[index][0], rotation, mask, *condition[index], index == last
        )
        made.append((key, value))
    return made


def velocity(
    model: Any, run: RunBlock, mods: Modulations, step: int, ctx: Context, prefix: Prefix, x: torch.Tensor
) -> torch.Tensor:
    """Velocity `(B, T, 4C)` at the noisy target tokens `x` `(B, T, 4C)`, for step `step` of the schedule."""
    image = model.img_in(x)
    text = None if prefix.text else ctx.text
    last = len(model.transformer_blocks) - 1
    rotation = between(ctx.rotation, 0, ctx.text.shape[1] + x.shape[1])
    for index, block in enumerate(model.transformer_blocks):
        image, text = run(
            target_block,
            block,
            image,
            text,
            mods.image[index][step],
            None if text is None else mods.text[index][step],
            rotation,
            ctx.mask,
            prefix.text[index] if prefix.text else None,
            prefix.condition[index],
            index == last,
        )
    scale, shift = mods.out[step].chunk(2, dim=-1)
    result: torch.Tensor = model.proj_out(model.norm_out.norm(image) * (1 + scale) + shift)
    return result


def condition_block(
    block: Any, known: torch.Tensor, mod: torch.Tensor, rotation: Rotation, last: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One block over condition tokens `(B, N, dim)`: what the next block takes, keys and values.

    Of the last block only keys and values are read.
    """
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts(mod, None)
    normed = modulated(block.img_norm1(known), shift, scale, 0)
    key, value = rotated(image_key(block.attn, normed), rotation), image_value(block.attn, normed)
    if not last:
        query = rotated(image_query(block.attn, normed), rotation)
        known = known + gated(block.attn.to_out[0](attend(query, key, value, None)), gate, 0)
        hidden = block.img_mlp(modulated(block.img_norm2(known), shift_mlp, scale_mlp, 0))
        known = known + gated(hidden, gate_mlp, 0)
    return known, key, value


def text_block(
    block: Any,
    text: torch.Tensor,
    mod: torch.Tensor,
    rotation: Rotation,
    mask: torch.Tensor | None,
    known_key: torch.Tensor,
    known_value: torch.Tensor,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One block over text tokens `(B, L, dim)`: what the next block takes, keys and values."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts(mod, None)
    normed = modulated(block.txt_norm1(text), shift, scale, 0)
    key, value = rotated(text_key(block.attn, normed), rotation), text_value(block.attn, normed)
    if not last:
        query = rotated(text_query(block.attn, normed), rotation)
        seen = attend(query, torch.cat([key, known_key], dim=1), torch.cat([value, known_value], dim=1), mask)
        text = text + gated(block.attn.to_add_out(seen), gate, 0)
        hidden = block.txt_mlp(modulated(block.txt_norm2(text), shift_mlp, scale_mlp, 0))
        text = text + gated(hidden, gate_mlp, 0)
    return text, key, value


def target_block(
    block: Any,
    image: torch.Tensor,
    text: torch.Tensor | None,
    image_mod: torch.Tensor,
    text_mod: torch.Tensor | None,
    rotation: Rotation,
    mask: torch.Tensor | None,
    known_text: KeyValue | None,
    known: KeyValue,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One block over the targets `(B, T, dim)` and, where it is not `known_text`, the text `(B, L, dim)`.

    `rotation` is that of text and targets, `known` the conditions' cache. Keys stand in the order of the sequence
    (text, targets, conditions), as `mask` `(B, 1, 1, L + T + N)` has them.
    """
    attn, count = block.attn, image.shape[1]
    at_targets = between(rotation, rotation[0].shape[1] - count, None)
    at_text = between(rotation, 0, rotation[0].shape[1] - count)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts(image_mod, None)
    normed = modulated(block.img_norm1(image), shift, scale, 0)
    own = rotated(image_key(attn, normed), at_targets), image_value(attn, normed)
    query = rotated(image_query(attn, normed), at_targets)
    if known_text is None:
        assert text is not None
        assert text_mod is not None
        words = parts(text_mod, None)
        normed_text = modulated(block.txt_norm1(text), words[0], words[1], 0)
        known_text = rotated(text_key(attn, normed_text), at_text), text_value(attn, normed_text)
        if not last:
            query = torch.cat([rotated(text_query(attn, normed_text), at_text), query], dim=1)
    keys, values = (torch.cat(tensors, dim=1) for tensors in zip(known_text, own, known, strict=True))
    joint = attend(query, keys, values, mask)
    of_text, of_image = joint[:, :-count], joint[:, -count:]
    image = image + gated(attn.to_out[0](of_image), gate, 0)
    image = image + gated(block.img_mlp(modulated(block.img_norm2(image), shift_mlp, scale_mlp, 0)), gate_mlp, 0)
    if text is not None and not last:
        text = text + gated(attn.to_add_out(of_text), words[2], 0)
        hidden = block.txt_mlp(modulated(block.txt_norm2(text), words[3], words[4], 0))
        text = text + gated(hidden, words[5], 0)
    return image, text


FORMS: Final = (condition_block, text_block, target_block)
"""The block functions that are run."""
