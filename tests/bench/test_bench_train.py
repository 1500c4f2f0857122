"""The training bench runs on a CPU, its variants train alike, and its FLOP count is the architecture's."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from refine_ops.model.doctor.random_weights import SMALL, random_pipeline
from tests.bench import bench_train

pytestmark = pytest.mark.long


def test_every_variant_trains_like_the_plain_loop() -> None:
    rows = bench_train.main(["--images", "3", "--warmup", "1", "--repeats", "2", "--only", "block/selective/none"])
    assert [row.name for row in rows] == ["plain loop", "block", "selective", "none"]
    assert all(row.seconds > 0 for row in rows)
    assert [row.loss for row in rows] == pytest.approx([rows[0].loss] * 4, rel=1e-4)


def test_the_flop_formula_counts_what_a_forward_pass_does() -> None:
    transformer = random_pipeline(SMALL).transformer
    batch = bench_train.make_batch(transformer, 128, 3, 40, torch.device("cpu"))
    # The counter knows no fused attention of the CPU, only matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        bench_train.plain_step(transformer, batch)()
    dim, layers = SMALL.heads * SMALL.head_dim, SMALL.layers
    # The formula's two terms at this size, as at full size: 24 d^2 per token and layer, 4 d per pair and layer.
    expected = layers * (24 * dim**2 * batch.tokens + 4 * dim * batch.tokens**2)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)
    per_token, per_pair = 60 * 24 * 3072**2, 60 * 4 * 3072
    assert per_token == pytest.approx(13.59e9, rel=1e-3)
    assert per_pair == 737_280
