"""Numerics self-test: does this machine compute what the models were trained with?

Two library changes silently change the picture ("colours shift on my machine"): transformers >= 5.3 numbers image
tokens like text unless `mm_token_type_ids` is given, and diffusers >= 0.37 modulates condition tokens at t = 0 where a
checkpoint's config sets `zero_cond_t`. Both are checked on small models against values that do not come from the code
under test: the published position rule, and velocities recorded with diffusers 0.36.0 (flag unknown) and 0.42.1 (set).
"""

import inspect
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel

from refine_ops.model.network import transformer as fast

GOLDEN: Final = Path(__file__).with_name("selftest.json")
"""Velocity `(1, 6, 16)` by name of the flag's value. Recorded by running this module under that diffusers version."""
SHAPES: Final = [(1, 2, 3), (1, 2, 3), (1, 2, 2)]
TOLERANCE: Final = 1e-5


def seeded_transformer(**extra: Any) -> Any:
    """A 2-layer transformer with weights from numpy's Philox, whose stream is fixed, in the order of their names."""
    model = QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=2, attention_head_dim=24, joint_attention_dim=16, in_channels=16,
        out_channels=4, axes_dims_rope=(8, 8, 8), **extra,
    ).eval()  # fmt: skip
    random = np.random.Generator(np.random.Philox(7))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = random.standard_normal(tuple(parameter.shape)) / np.sqrt(parameter.shape[-1])
            parameter.copy_(torch.from_numpy(values + ("norm_" in name or "txt_norm" in name)))
    return model


@torch.no_grad()
def diffusers_velocity(model: Any) -> torch.Tensor:
    """The velocity by the installed diffusers' own forward pass; runs on 0.36.0 too."""
    x, condition, text = _inputs()
    arguments = {
        "hidden_states": torch.cat([x, condition], dim=1),
        "encoder_hidden_states": text,
        "encoder_hidden_states_mask": torch.ones(text.shape[:2]),
        "timestep": torch.tensor([0.7]),
        "img_shapes": [SHAPES],
        "txt_seq_lens": [text.shape[1]],
        "return_dict": False,
    }
    known = inspect.signature(model.forward).parameters
    output: torch.Tensor = model(**{name: value for name, value in arguments.items() if name in known})[0]
    return output[:, : x.shape[1]]


@torch.no_grad()
def fast_velocity(model: Any) -> torch.Tensor:
    """The velocity by our forward pass."""
    x, condition, text = _inputs()
    context = fast.context(model, text, None, condition, SHAPES, None)
    return fast.velocity(model, fast.block_forward, fast.modulations(model, torch.tensor([0.7])), 0, context, x)


def recorded_velocity(zero_cond_t: bool) -> torch.Tensor:
    """What `zero_cond_t` gave when it was recorded."""
    return torch.tensor(json.loads(GOLDEN.read_text())[str(zero_cond_t).lower()]["velocity"])


def image_positions(ids: torch.Tensor, grids: torch.Tensor, image_token: int) -> torch.Tensor:
    """Qwen2-VL's published position rule, written out, for one sequence `int64 (L,)`: `int64 (3, 1, L)`.

    Text counts up; an image's tokens share the frame's position, their rows and columns (of 2 x 2 patches) count from
    there, and the text behind goes on after the larger side.
    """
    positions: list[tuple[int, int, int]] = []
    images, position, at = iter(grids.tolist()), 0, 0
    while at < len(ids):
        if ids[at] == image_token:
            _, rows, columns = next(images)
            rows, columns = rows // 2, columns // 2
            positions += [(position, position + y, position + x) for y in range(rows) for x in range(columns)]
            position += max(rows, columns)
            at += rows * columns
        else:
            positions.append((position, position, position))
            position, at = position + 1, at + 1
    return torch.tensor(positions).T[:, None]


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.Generator(np.random.Philox(8))
    x, condition, text = (torch.from_numpy(random.standard_normal((1, n, 16))).float() for n in (6, 10, 5))
    return x, condition, text


def _record() -> None:
    import diffusers

    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    knows = "zero_cond_t" in inspect.signature(QwenImageTransformer2DModel.__init__).parameters
    flag, model = ("true", seeded_transformer(zero_cond_t=True)) if knows else ("false", seeded_transformer())
    recorded[flag] = {"diffusers": diffusers.__version__, "velocity": diffusers_velocity(model).tolist()}
    GOLDEN.write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    _record()
