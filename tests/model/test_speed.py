"""fp8 and compilation: exact where exactness is promised, bounded where not."""

from typing import Any

import numpy as np
import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import speed
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.load import Networks
from refine_ops.model.network.fp8 import Fp8Linear, quantize_linears, quantize_rows
from refine_ops.model.network.transformer import block_forward
from refine_ops.model.speed import accelerate


def test_rows_are_quantised_to_four_significant_bits() -> None:
    """e4m3 has 3 mantissa bits: rounding is at most 1/16 of a value, and each row uses the whole range."""
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 64)[:, None]
    quantised, scale = quantize_rows(x)
    assert quantised.dtype == torch.float8_e4m3fn
    assert (quantised.float().abs().amax(dim=1) == 448).all()
    largest = x.abs().amax(dim=1, keepdim=True)
    error = (quantised.float() * scale - x).abs()
    assert (error <= x.abs() / 16 + largest * 2**-9 / 448).all()
    assert torch.equal(quantize_rows(torch.zeros(2, 4))[0].float(), torch.zeros(2, 4)), "an empty row stays zero"


def test_fp8_linear_is_near_the_exact_one() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 96, dtype=torch.bfloat16)
    x = torch.randn(2, 5, 256, dtype=torch.bfloat16)
    with torch.no_grad():
        exact, quantised = linear(x).float(), Fp8Linear(linear)(x)
    assert quantised.shape == exact.shape
    assert quantised.dtype == torch.bfloat16
    error = (quantised.float() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert 1e-4 < error < 0.05, "rounding to 1/16 on both sides gives about 3.5 % per product, averaged over 256"


def test_sensitive_layers_stay_in_bfloat16() -> None:
    transformer = random_pipeline(seed=3, dtype=torch.bfloat16).transformer
    quantize_linears(transformer)
    kept = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    block = "transformer_blocks.0."
    assert {f"{block}img_mlp.net.2", f"{block}img_mod.1", f"{block}txt_mod.1", "img_in", "txt_in", "proj_out"} <= kept
    assert f"{block}attn.to_q" not in kept


def test_fp8_is_refused_where_there_is_none() -> None:
    with pytest.raises(JobError, match=r"compute capability 8\.9"):
        accelerate(Networks.of(random_pipeline(seed=3)), ModelSettings(fp8=True), torch.device("cpu"))


@pytest.mark.slow
def test_compiled_blocks_serve_all_blocks_and_sizes_with_two_graphs(make_refiner: Any, make_item: Any) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    compiled, eager = make_refiner(batch_size=2, compile=True), make_refiner(batch_size=2)
    for seed, size in enumerate([(96, 64), (64, 128), (128, 128), (160, 64)]):
        item = make_item(seed, size=size, reference=(50, 70) if seed % 2 else None)
        np.testing.assert_allclose(compiled.refine([item])[0].pixels, eager.refine([item])[0].pixels, rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 2, "one for the last block, one for all others"


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"compile": True}, {"compile": True, "fp8": True}])
def test_fast_bfloat16_on_a_gpu_stays_near_fp32(make_refiner: Any, make_item: Any, options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    item = make_item(0, size=(256, 256), marked=(40, 40, 200, 200))
    exact = make_refiner(speed="reference").refine([item])[0]
    pipeline = random_pipeline(seed=3, zero_cond_t=True).to(device, torch.bfloat16)
    fast = make_refiner(pipeline=pipeline, device=device, **options).refine([item])[0]
    assert np.abs(fast.pixels - exact.pixels).mean() < 0.02


def test_no_item_dies_of_the_number_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(x: torch.Tensor, by: int | None, last: bool) -> torch.Tensor:
        return x if last else x * (by or 1)

    monkeypatch.setattr(speed, "_GRAPHS", 1)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    form = speed.CompiledForm(scaled, backend="eager")
    x = torch.arange(4.0)
    for by, last in ((None, False), (2, False), (None, True), (3, False), (2, True)):
        torch.testing.assert_close(form(x, by, last), scaled(x, by, last))


def test_blocks_are_compiled_on_a_gpu_unless_told_otherwise() -> None:
    def kind(compile_: bool | None, device: str) -> bool:
        return speed.compiled(block_forward, ModelSettings(compile=compile_), torch.device(device)) is not block_forward

    assert [kind(None, "cuda"), kind(False, "cuda"), kind(None, "cpu"), kind(True, "cpu")] == [True, False, False, True]
