"""Cached conditions are the joint pass under a block-causal mask, computed once."""

from typing import Any

import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.network import cached_conditions as cached
from refine_ops.model.network import transformer as fast
from refine_ops.model.presets import PRESETS, apply_overrides

_SHAPES = [(1, 4, 6), (1, 4, 6), (1, 3, 3), (1, 4, 6)]
_TARGETS, _KNOWN, _TEXT = 24, 24 + 9 + 24, 7


def _inputs(model: Any, *, masked: bool, sparse: bool) -> tuple[fast.Context, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    targets = torch.tensor([[0, 3, 7, 20], [1, 2, 3, 23]]) if sparse else None
    count = 4 if sparse else _TARGETS
    text = torch.randn(2, _TEXT, model.config.joint_attention_dim, generator=draw)
    mask = torch.tensor([[True] * _TEXT, [True] * 4 + [False] * 3]) if masked else None
    known = torch.randn(2, _KNOWN, model.config.in_channels, generator=draw)
    x = torch.randn(2, count, model.config.in_channels, generator=draw)
    return fast.context(model, text, mask, known, _SHAPES, targets), x


def _joint(model: Any, mods: fast.Modulations, ctx: fast.Context, x: torch.Tensor, *, text: bool) -> torch.Tensor:
    """The joint pass, every query shown only what block-causal attention lets it see; conditions anew in each step."""
    length, count = ctx.text.shape[1], x.shape[1]
    total = length + count + ctx.condition.shape[1]
    seen = torch.ones(total, total, dtype=torch.bool)
    seen[length + count :, : length + count] = False
    if text:
        seen[:length, length : length + count] = False
        mods = fast.Modulations(mods.image, mods.text_at_zero, mods.condition, mods.out, [])
    keys = torch.ones(1, 1, 1, total, dtype=torch.bool) if ctx.mask is None else ctx.mask

    def run(*arguments: Any) -> Any:
        *rest, _, targets, last = arguments
        queries = seen[length : length + count] if last else seen
        return fast.block_forward(*rest, keys & queries, targets, last)

    return fast.velocity(model, run, mods, 1, ctx, x)


@pytest.mark.parametrize("text", [False, True], ids=["cached", "cached+text"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@torch.no_grad()
def test_cached_equals_the_joint_pass_under_its_mask(text: bool, masked: bool, sparse: bool) -> None:
    model = random_pipeline(seed=3, zero_cond_t=True).transformer
    ctx, x = _inputs(model, masked=masked, sparse=sparse)
    mods = fast.modulations(model, torch.tensor([0.9, 0.4]), text_at_zero=True)
    condition = cached.prefill_conditions(model, cached.plain, mods, ctx)
    words = cached.prefill_text(model, cached.plain, mods, ctx, condition) if text else []
    made = cached.velocity(model, cached.plain, mods, 1, ctx, cached.Prefix(condition, words), x)
    wanted = _joint(model, mods, ctx, x, text=text)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    plain = fast.velocity(model, fast.block_forward, mods, 1, ctx, x)
    assert (made - plain).abs().max() > 1e-4, "the mask matters"


@torch.no_grad()
def test_one_cache_serves_every_prompt_and_step() -> None:
    model = random_pipeline(seed=3, zero_cond_t=True).transformer
    ctx, _ = _inputs(model, masked=False, sparse=False)
    other = fast.context(
        model,
        torch.randn(2, 11, model.config.joint_attention_dim),
        None,
        torch.zeros(2, _KNOWN, model.config.in_channels),
        _SHAPES,
        None,
    )
    other = fast.Context(other.text, ctx.condition, other.rotation, None)
    mods = fast.modulations(model, torch.tensor([0.9]))
    later = fast.modulations(model, torch.tensor([0.1]))
    for one, two in zip(
        cached.prefill_conditions(model, cached.plain, mods, ctx),
        cached.prefill_conditions(model, cached.plain, later, other),
        strict=True,
    ):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_bytes_of_a_token_at_full_size() -> None:
    class Full:
        transformer_blocks, inner_dim = range(60), 3072

    assert cached.cache_bytes(Full, 1, 2) == 737_280


@pytest.mark.parametrize("conditions", ["cached", "cached+text"])
def test_conditions_that_change_in_every_step_are_refused(make_refiner: Any, conditions: str) -> None:
    with pytest.raises(JobError, match="zero_cond_t true"):
        make_refiner(zero_cond_t=False, conditions=conditions)
    with pytest.raises(JobError, match="zero_cond_t false"):
        apply_overrides(PRESETS["refineanything-2511"], ModelSettings(conditions=conditions))
    with pytest.raises(JobError, match="speed 'reference'"):
        make_refiner(conditions=conditions, speed="reference")


def test_every_step_sees_the_pictures_and_the_prompt(make_refiner: Any, make_item: Any) -> None:
    for conditions in ("cached", "cached+text"):
        refiner = make_refiner(conditions=conditions, true_cfg_scale=2.0)
        one, *others = (
            refiner.refine([item])[0].pixels
            for item in (
                make_item(0, reference=(60, 40)),
                make_item(0),
                make_item(0, reference=(60, 40), prompt="Refine the text."),
                make_item(0, reference=(60, 40), marked=(10, 10, 20, 20)),
            )
        )
        assert all((one != other).any() for other in others)
