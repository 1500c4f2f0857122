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

from refine_ops.model.doctor import selftest


@pytest.mark.parametrize("velocity", [selftest.diffusers_velocity, selftest.fast_velocity])
@pytest.mark.parametrize(("flag", "version"), [(False, "0.36.0"), (True, "0.42.1")])
def test_the_flag_reproduces_the_version(velocity: Any, flag: bool, version: str) -> None:
    assert json.loads(selftest.GOLDEN.read_text())[str(flag).lower()]["diffusers"] == version
    model = selftest.seeded_transformer(zero_cond_t=flag)
    torch.testing.assert_close(velocity(model), selftest.recorded_velocity(flag), rtol=0, atol=selftest.TOLERANCE)


def test_the_flag_matters() -> None:
    assert (selftest.recorded_velocity(True) - selftest.recorded_velocity(False)).abs().max() > 0.05
