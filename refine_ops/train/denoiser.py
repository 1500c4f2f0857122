"""The trainable model: the refiner's own transformer pass, with low-rank updates on its attention projections."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from refine_ops.errors import JobError
from refine_ops.model.network import cached_conditions as cached
from refine_ops.model.network.transformer import Shapes, block_forward, context, modulations, velocity
from refine_ops.model.presets import CHANGING_CONDITIONS, Conditions
from refine_ops.train.config import LoraSettings
from refine_ops.train.samples.draws import derive_seed

IMAGE_STREAM: Final = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_STREAM: Final = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_TEXT_READERS: Final = ("add_q_proj", "to_add_out")
Checkpointing = Literal["block", "selective", "none"]

_ATTENTION_OPS: Final = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)


class Denoiser(torch.nn.Module):
    """Predict the velocity of noisy target tokens; only the low-rank matrices require gradients.

    Masters of the low-rank matrices are fp32; each product runs in the dtype of its input. Whatever dtype the frozen
    weights have, there is no autocast: norms and residuals stay in the dtype in which the refiner runs them.
    """

    def __init__(
        self,
        transformer: Any,
        lora: LoraSettings,
        *,
        seed: int,
        checkpointing: Checkpointing,
        compiled: bool,
        conditions: Conditions = "joint",
    ) -> None:
        super().__init__()
        if conditions != "joint" and not transformer.config.zero_cond_t:
            raise JobError(CHANGING_CONDITIONS.format(conditions))
        self._conditions = conditions
        self.transformer = transformer
        add_lora(transformer, lora, seed)
        self._wrapped = {block: _Block(block) for block in transformer.transformer_blocks}
        self.blocks = torch.nn.ModuleList(self._wrapped.values())
        self.run_blocks_with(checkpointing, compiled)

    def run_blocks_with(self, checkpointing: Checkpointing, compiled: bool) -> None:
        """What the backward pass recomputes, and whether blocks are compiled: once for all, for all shapes."""
        runs = {}
        for form in (block_forward, *cached.FORMS):
            run = _block_runner(form, checkpointing)
            runs[form] = torch.compile(run, dynamic=True) if compiled else run
        for wrapper in self._wrapped.values():
            wrapper.runs = runs

    def forward(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        sigma: torch.Tensor,
        shapes: Shapes,
        targets: torch.Tensor | None,
    ) -> torch.Tensor:
        """Velocity `noise - x0`, `(B, T, 4C)`.

        Args:
            x: `(B, T, 4C)` packed noisy target tokens.
            condition: `(B, N, 4C)` packed condition latents in order.
            text: `(B, L, D)` prompt embeddings; `text_mask` `bool (B, L)` or None.
            sigma: `float32 (1,)`, the noise level of the whole batch.
            shapes: Token grids, the target's first.
            targets: `int64 (B, T)` raster indices of the tokens in `x`, None for the whole grid.
        """
        model = self.transformer
        dtype = model.dtype
        # Rounded as the pipeline rounds its timesteps, so that training sees the modulations inference uses.
        with_text = self._conditions == "cached+text"
        mods = modulations(model, (sigma * 1000).to(dtype) / 1000, text_at_zero=with_text)
        ctx = context(model, text.to(dtype), text_mask, condition.to(dtype), shapes, targets)
        if self._conditions == "joint":
            return velocity(model, partial(self._run, block_forward), mods, 0, ctx, x.to(dtype))
        # The cache is made anew for each step, and the gradient goes through it: its layers are trained too.
        known = cached.prefill_conditions(model, self._run, mods, ctx)
        words = cached.prefill_text(model, self._run, mods, ctx, known) if with_text else []
        return cached.velocity(model, self._run, mods, 0, ctx, cached.Prefix(known, words), x.to(dtype))

    def _run(self, form: Callable[..., Any], block: Any, *arguments: Any) -> Any:
        # Called as a module: sharding gathers a block's weights in hooks around the call.
        return self._wrapped[block](form, *arguments)


class _Block(torch.nn.Module):
    """One transformer block as a module of its own, so that sharding and compilation can wrap it."""

    runs: dict[Callable[..., Any], Callable[..., Any]]

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, form: Callable[..., Any], *arguments: Any) -> Any:
        return self.runs[form](self.block, *arguments)


def add_lora(transformer: Any, settings: LoraSettings, seed: int) -> None:
    """Freeze `transformer` and add fp32 low-rank updates, `A` drawn from `seed` on the CPU and `B` zero.

    The last block's text queries and text output are read by nobody, so they get no update.
    """
    transformer.requires_grad_(False)
    transformer.add_adapter(lora_config(transformer, settings))
    for name, module in transformer.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        module.cast_input_dtype_enabled = False
        down, up = module.lora_A["default"], module.lora_B["default"]
        start = torch.empty(down.weight.shape)
        bound = 1 / math.sqrt(start.shape[1])  # PEFT's own: Kaiming's uniform with slope sqrt(5)
        start.uniform_(-bound, bound, generator=torch.Generator().manual_seed(derive_seed(seed, "lora", name)))
        for linear, values in ((down, start), (up, torch.zeros(up.weight.shape))):
            linear.weight = torch.nn.Parameter(values.to(linear.weight.device, torch.float32))
            linear.__class__ = _MasterLinear


def lora_config(transformer: Any, settings: LoraSettings) -> LoraConfig:
    """Full names of every updated layer: a suffix would also match the last block's unread text projections."""
    last = f"transformer_blocks.{len(transformer.transformer_blocks) - 1}."
    wanted = IMAGE_STREAM + (TEXT_STREAM if settings.text_stream else ())
    names = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.partition(".attn.")[2] in wanted
        and not (name.startswith(last) and name.endswith(_TEXT_READERS))
    ]
    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names, lora_dropout=0.0)


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, in a fixed order."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class _MasterLinear(torch.nn.Linear):
    """A linear layer whose fp32 weight is rounded to its input's dtype for the product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def _block_runner(form: Callable[..., Any], checkpointing: Checkpointing) -> Callable[..., Any]:
    """How a block is run: keep everything, recompute it whole, or recompute all but its attention.

    Attention is two fifths of a compiled step at 13k tokens, and its output is one of some twenty tensors of its size.
    """
    if checkpointing == "none":
        return form
    if checkpointing == "block":
        return partial(checkpoint, form, use_reentrant=False)
    return partial(checkpoint, form, use_reentrant=False, context_fn=_keep_attention)


def _keep_attention() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    if operation in _ATTENTION_OPS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
