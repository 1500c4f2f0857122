"""Rowwise fp8 linears for Hopper and newer: one scale per token and one per output channel."""

from typing import Any, Final

import torch

FP8: Final = torch.float8_e4m3fn
_LARGEST: Final = torch.finfo(FP8).max
_QUANTIZED: Final = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "img_mlp.net.0.proj", "txt_mlp.net.0.proj", "txt_mlp.net.2",
)  # fmt: skip
"""The layers of a block that are quantised.

`img_mlp.net.2` stays: its inputs have outliers that fp8 shows as artefacts. Modulations and the layers outside the
blocks stay too; they are no work.
"""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise `(rows, columns)` to fp8 with a scale per row: `x ~ quantised * scale`, scale `float32 (rows, 1)`."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (x.float() / scale).clamp(-_LARGEST, _LARGEST).to(FP8), scale


class Fp8Linear(torch.nn.Module):
    """A linear layer with fp8 weights; inputs are quantised per token on the fly. bfloat16 in and out."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight, scale = quantize_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = quantize_rows(x.flatten(0, -2))
        out: torch.Tensor = torch._scaled_mm(
            rows, self.weight.T, scale_a=scale, scale_b=self.scale, bias=self.bias, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip
        return out.view(*x.shape[:-1], -1)


def quantize_linears(transformer: Any) -> None:
    """Replace the listed linears of every block, one at a time, so that memory only falls."""
    for block in transformer.transformer_blocks:
        for name in _QUANTIZED:
            block.set_submodule(name, Fp8Linear(block.get_submodule(name)))
