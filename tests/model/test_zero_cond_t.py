"""`zero_cond_t=False` gives what diffusers 0.36.0 gave; the golden velocity was made with that very version.

0.36.0 modulates every image token at the sampler's timestep t. From 0.37.0 a checkpoint whose config sets `zero_cond_t`
has its condition tokens modulated at t = 0 instead, so the same file gives another picture. To make the golden file
again: `pip install --no-deps --target OLD diffusers==0.36.0`, then `PYTHONPATH=OLD python tests/model/test_zero_cond_t.py`.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel

GOLDEN = Path(__file__).parent / "golden" / "velocity_diffusers_0_36_0.json"
SHAPES = [(1, 2, 3), (1, 2, 3), (1, 2, 2)]
SIZES = {
    "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "joint_attention_dim": 16, "in_channels": 16,
    "out_channels": 4, "axes_dims_rope": (8, 8, 8),
}  # fmt: skip


def seeded_transformer(**extra: Any) -> Any:
    """Weights from numpy's Philox, whose stream is fixed, in the order of their names."""
    model = QwenImageTransformer2DModel(**SIZES, **extra).eval()
    random = np.random.Generator(np.random.Philox(7))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = random.standard_normal(tuple(parameter.shape)) / np.sqrt(parameter.shape[-1])
            parameter.copy_(torch.from_numpy(values + ("norm_" in name or "txt_norm" in name)))
    return model


def seeded_inputs() -> dict[str, torch.Tensor]:
    random = np.random.Generator(np.random.Philox(8))
    shapes = {"x": (1, 6, 16), "condition": (1, 10, 16), "text": (1, 5, 16)}
    return {name: torch.from_numpy(random.standard_normal(shape)).float() for name, shape in shapes.items()}


@torch.no_grad()
def diffusers_velocity(model: Any) -> torch.Tensor:
    inputs = seeded_inputs()
    arguments = {
        "hidden_states": torch.cat([inputs["x"], inputs["condition"]], dim=1),
        "encoder_hidden_states": inputs["text"],
        "encoder_hidden_states_mask": torch.ones(1, 5),
        "timestep": torch.tensor([0.7]),
        "img_shapes": [SHAPES],
        "txt_seq_lens": [5],
        "return_dict": False,
    }
    known = inspect.signature(model.forward).parameters
    velocity: torch.Tensor = model(**{name: value for name, value in arguments.items() if name in known})[0]
    return velocity[:, :6]


@torch.no_grad()
def our_velocity(model: Any) -> torch.Tensor:
    from refine_ops.model import transformer as fast

    inputs = seeded_inputs()
    mods = fast.modulations(model, torch.tensor([0.7]))
    context = fast.context(model, inputs["text"], None, inputs["condition"], SHAPES, None)
    return fast.velocity(model, fast.block_forward, mods, 0, context, inputs["x"])


@pytest.fixture(scope="module")
def golden() -> torch.Tensor:
    stored = json.loads(GOLDEN.read_text())
    assert stored["diffusers"] == "0.36.0"
    return torch.tensor(stored["velocity"])


@pytest.mark.parametrize("velocity", [diffusers_velocity, our_velocity])
def test_false_reproduces_diffusers_0_36(golden: torch.Tensor, velocity: Any) -> None:
    torch.testing.assert_close(velocity(seeded_transformer(zero_cond_t=False)), golden, rtol=0, atol=1e-5)


def test_true_is_another_model(golden: torch.Tensor) -> None:
    changed = diffusers_velocity(seeded_transformer(zero_cond_t=True))
    assert (changed - golden).abs().max() > 0.05
    torch.testing.assert_close(our_velocity(seeded_transformer(zero_cond_t=True)), changed, rtol=0, atol=1e-5)


if __name__ == "__main__":
    import diffusers

    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(
        json.dumps({"diffusers": diffusers.__version__, "velocity": diffusers_velocity(seeded_transformer()).tolist()})
    )
