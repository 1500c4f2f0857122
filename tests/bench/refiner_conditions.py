"""What cached conditions and sparse targets save: FLOPs counted and seconds measured, against the joint dense step.

One crop of `grid` x `grid` tokens; 3 images are crop, mask and target, 4 have a reference of the crop's size. Every row
is one combination; `x` is its denoising of one item (prefill and all steps) against `joint` over the whole crop of the
same run.
"""

import itertools
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from refiner_setup import Setup
from refiner_steps import seconds_of
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from refine_ops.config import ModelSettings
from refine_ops.model.load import Networks
from refine_ops.model.network import cached_conditions as cached
from refine_ops.model.network import transformer as fast
from refine_ops.model.speed import best_attention, compiled

SHARES = (1.0, 0.5, 0.25)
"""Parts of the crop that are denoised."""
CONDITIONS = ("joint", "cached", "cached+text")
Row = dict[str, Any]


@dataclass(frozen=True)
class _Work:
    """`prefill` runs once per item, `step` once per step with what it made."""

    prefill: Callable[[], Any]
    step: Callable[[Any], Any]


@torch.no_grad()
def measure_conditions(setup: Setup, repeats: int, save: Callable[[list[Row]], None]) -> list[Row]:
    """All combinations; `save` is given the rows so far after each."""
    model = Networks.of(setup.pipeline()).transformer
    with unittest.mock.patch.object(model, "zero_cond_t", True):  # as 2511's config has it, and as caching needs it
        return _measure(setup, model, repeats, save)


def _measure(setup: Setup, model: Any, repeats: int, save: Callable[[list[Row]], None]) -> list[Row]:
    forms = {form: compiled(form, ModelSettings(), setup.device) for form in (fast.block_forward, *cached.FORMS)}
    grid = 64 if setup.device.type == "cuda" else 32
    rows: list[Row] = []
    for images, conditions, share in itertools.product((3, 4), CONDITIONS, SHARES):
        work = _work(setup, model, forms, conditions, images, share, grid)
        row: Row = {"images": images, "conditions": conditions, "share": share}
        with best_attention(setup.device):
            row |= {"prefill_s": seconds_of(work.prefill, setup.device, repeats)}
            prefix = work.prefill()
            row |= {"step_s": seconds_of(partial(work.step, prefix), setup.device, repeats)}
            plain = _work(setup, model, {form: form for form in forms}, conditions, images, share, grid)
            row |= {"prefill_flop": _flops(plain.prefill), "step_flop": _flops(partial(plain.step, prefix))}
        steps = setup.preset.steps
        row["item_s"] = row["prefill_s"] + steps * row["step_s"]
        row["item_flop"] = row["prefill_flop"] + steps * row["step_flop"]
        base = next((other for other in rows if other["images"] == images), row)
        row |= {"x_s": base["item_s"] / row["item_s"], "x_flop": base["item_flop"] / row["item_flop"]}
        rows.append(row)
        save(rows)
        print(
            f"{images} images, {conditions:>11}, {share:>4.0%} of the crop: prefill {row['prefill_s']:.4f} s, step "
            f"{row['step_s']:.4f} s, {steps} steps {row['item_s']:.3f} s ({row['x_s']:.2f}x), "
            f"{row['item_flop'] / 1e12:.4g} TFLOP ({row['x_flop']:.2f}x)"
        )
    return rows


def _work(
    setup: Setup, model: Any, forms: dict[Any, Any], conditions: str, images: int, share: float, grid: int
) -> _Work:
    draw, full = torch.Generator().manual_seed(0), grid * grid
    count = round(full * share)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(setup.device, setup.dtype)

    x, known = noise(1, count, model.config.in_channels), noise(1, (images - 1) * full, model.config.in_channels)
    text = noise(1, setup.text_tokens, model.config.joint_attention_dim)
    targets = None if share == 1.0 else torch.arange(count, device=setup.device)[None]
    mods = fast.modulations(
        model, torch.full((1,), 0.5, device=setup.device, dtype=setup.dtype), text_at_zero=conditions == "cached+text"
    )
    ctx = fast.context(model, text, None, known, [(1, grid, grid)] * images, targets)
    if conditions == "joint":
        block = forms[fast.block_forward]
        return _Work(lambda: None, lambda _: fast.velocity(model, block, mods, 0, ctx, x))
    run: cached.RunBlock = lambda form, *arguments: forms[form](*arguments)  # noqa: E731

    def prefill() -> cached.Prefix:
        made = cached.prefill_conditions(model, run, mods, ctx)
        return cached.Prefix(made, cached.prefill_text(model, run, mods, ctx, made) if mods.text_at_zero else [])

    return _Work(prefill, lambda prefix: cached.velocity(model, run, mods, 0, ctx, prefix, x))


def _flops(work: Callable[[], Any]) -> int:
    # torch counts the attention of GPUs only.
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    count = lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)  # noqa: E731
    with FlopCounterMode(display=False, custom_mapping={on_cpu: count}) as counter:
        work()
    return int(counter.get_total_flops())
