"""`zero_cond_t=False` gives what diffusers 0.36.0 gave; the recorded velocity was made with that very version.

0.36.0 modulates every image token at the sampler's timestep t. From 0.37.0 a checkpoint whose config sets `zero_cond_t`
has its condition tokens modulated at t = 0 instead, so the same file gives another picture. To record again:
`pip install --no-deps --target OLD diffusers==0.36.0`, then
`PYTHONPATH=OLD python -m refine_ops.model.doctor.selftest`.
"""

import json
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from refine_ops.model.doctor import selftest
from refine_ops.model.network import transformer as fast


@pytest.mark.parametrize("velocity", [selftest.diffusers_velocity, selftest.fast_velocity])
@pytest.mark.parametrize(("flag", "version"), [(False, "0.36.0"), (True, "0.42.1")])
def test_the_flag_reproduces_the_version(velocity: Any, flag: bool, version: str) -> None:
    assert json.loads(selftest.GOLDEN.read_text())[str(flag).lower()]["diffusers"] == version
    model = selftest.seeded_transformer(zero_cond_t=flag)
    torch.testing.assert_close(velocity(model), selftest.recorded_velocity(flag), rtol=0, atol=selftest.TOLERANCE)


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@torch.no_grad()
def test_conditions_at_zero_cost_no_modulation_per_token() -> None:
    model = selftest.seeded_transformer(zero_cond_t=True)
    shapes = [(1, 8, 8), (1, 8, 8)]
    x, known = torch.randn(1, 64, model.config.in_channels), torch.randn(1, 64, model.config.in_channels)
    text = torch.randn(1, 8, model.config.joint_attention_dim)
    mods, context = fast.modulations(model, torch.tensor([0.7])), fast.context(model, text, None, known, shapes, None)
    with _Largest() as seen:
        fast.velocity(model, fast.block_forward, mods, 0, context, x)
    widest = 4 * model.inner_dim  # inside the feed-forward
    assert seen.elements <= widest * (64 + 64)


def test_the_flag_matters() -> None:
    assert (selftest.recorded_velocity(True) - selftest.recorded_velocity(False)).abs().max() > 0.05
