"""The tiny checkpoint's recipe at reduced scale: the training pass is the stock model's, and training learns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from refine_ops.data import synthetic
from refine_ops.data.synthetic import assets
from refine_ops.data.synthetic.prompts import all_prompts
from refine_ops.eval.cases.mini import write_mini
from refine_ops.model import tiny
from refine_ops.model.network import vae as one_frame
from refine_ops.model.network.transformer import context
from refine_ops.model.tiny import shapes
from refine_ops.train.optimize import MovingAverage
from refine_ops.train.tiny import assemble
from refine_ops.train.tiny.run import Schedule, save, train
from refine_ops.train.tiny.samples import Mix, RenderedBatch, input_spec, make_batch
from refine_ops.train.tiny.transformer import TokenBatch, channel_weights, encode_batch, loss_of, velocity

torch.set_num_threads(1)
CPU = torch.device("cpu")
MIX = Mix(synthetic.Recipe(seed=5, strength=(0.5, 1.0)), window=32, batch=4, reference_share=1.0, sparse_share=0.0)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLQwenImage:
    vae = AutoencoderKLQwenImage.from_pretrained(tiny.WEIGHTS / "vae", torch_dtype=torch.float32)
    return one_frame.as_one_frame(vae).requires_grad_(False)


def rendered(mix: Mix, number: int = 0) -> RenderedBatch:
    processor, encoder = assemble.new_text_parts(all_prompts())
    return make_batch(number, mix, synthetic.library("train"), input_spec(processor), encoder)


@pytest.fixture(scope="module")
def batch(vae: AutoencoderKLQwenImage) -> TokenBatch:
    return encode_batch(vae, rendered(MIX), CPU)


def shaken_transformer() -> QwenImageTransformer2DModel:
    """Every weight matters: the start's zeros are filled."""
    model = assemble.new_transformer()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("padded", [False, True])
def test_training_pass_equals_the_stock_transformer(batch: TokenBatch, padded: bool) -> None:
    model, tokens = shaken_transformer(), batch.target.shape[1]
    noisy = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([1.0, 0.8, 0.6, 0.4])
    text, mask = batch.text, batch.text_mask
    if not padded:
        text, mask = text[:, :20], torch.ones(len(text), 20, dtype=torch.bool)
    condition = torch.cat(batch.conditions, 1)
    with torch.no_grad():
        stock = model(
            torch.cat([noisy, condition], 1), text, mask, sigma, [batch.shapes] * len(noisy), return_dict=False
        )[0][:, :tokens]  # fmt: skip
        ours = velocity(model, context(model, text, mask, condition, batch.shapes, None), sigma, noisy)
        every = torch.arange(tokens).expand(len(noisy), -1)
        sparse = velocity(model, context(model, text, mask, condition, batch.shapes, every), sigma, noisy)
    torch.testing.assert_close(ours, stock, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(sparse, ours, atol=1e-5, rtol=1e-4)


def test_an_undamaged_batch_costs_nearly_nothing_at_the_start(vae: AutoencoderKLQwenImage, batch: TokenBatch) -> None:
    """The start predicts the crop: where the crop is the target, the loss is a small part of a damaged batch."""
    weights, model = torch.ones(shapes.TOKEN_CHANNELS), assemble.new_transformer()
    undamaged = replace(batch, conditions=(batch.target, *batch.conditions[1:]))
    with torch.no_grad():
        clean = float(loss_of(model, undamaged, weights, torch.Generator().manual_seed(0)))
        damaged = float(loss_of(model, batch, weights, torch.Generator().manual_seed(0)))
    assert clean < 0.25 * damaged


@pytest.mark.long
def test_training_on_one_batch_learns_it(batch: TokenBatch) -> None:
    model, weights = assemble.new_transformer(), torch.ones(shapes.TOKEN_CHANNELS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

    def loss() -> torch.Tensor:
        return loss_of(model, batch, weights, torch.Generator().manual_seed(0))

    before = float(loss().detach())
    for _ in range(25):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
    assert float(loss().detach()) < 0.7 * before


def test_batches_are_the_same_wherever_they_are_rendered() -> None:
    one, two, other = rendered(MIX, 3), rendered(MIX, 3), rendered(MIX, 4)
    assert torch.equal(one.target, two.target)
    assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
    assert torch.equal(one.text, two.text)
    assert not torch.equal(one.target, other.target)


def test_sparse_batches_denoise_half_the_tokens_around_the_support() -> None:
    wide = replace(MIX, window=64)
    sparse = rendered(replace(wide, sparse_share=1.0))
    dense = rendered(replace(wide, sparse_share=0.0))
    assert sparse.chosen is not None
    assert sparse.chosen.shape == (4, 32)
    assert dense.chosen is None
    for row in sparse.chosen:
        assert len(set(row.tolist())) == 32
    assert sparse.inside.float().mean() > dense.inside.float().mean()


def test_channel_weights_follow_the_pixels(vae: AutoencoderKLQwenImage) -> None:
    """The first latent (the block's brightness) moves the picture more than the last (its finest detail)."""
    latents = torch.randn(2, shapes.LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = channel_weights(vae, latents)
    assert weights.shape == (shapes.TOKEN_CHANNELS,)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[0] > 3 * weights[-1]


@pytest.mark.processes
def test_a_short_run_leaves_weights_to_go_on_from(tmp_path: Path, vae: AutoencoderKLQwenImage) -> None:
    mix = replace(MIX, batch=2, reference_share=0.5)
    schedule = Schedule(minutes=0.05, mix=mix, compile=False, phases=1, log_every=1)
    model = train(assemble.new_transformer(), vae, schedule, tmp_path, CPU)
    assert json.loads((tmp_path / "progress.json").read_text())["steps"] >= 1
    again = QwenImageTransformer2DModel.from_pretrained(tmp_path / "transformer", torch_dtype=torch.float32)
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours.detach().bfloat16().float(), msg=name)


def test_saving_replaces_the_last_save_as_a_whole(tmp_path: Path) -> None:
    model = assemble.new_transformer()
    for step in (1, 2):
        save(MovingAverage(dict(model.named_parameters()), 0.9), model, tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "transformer"]
    assert json.loads((tmp_path / "progress.json").read_text()) == {"steps": 2}


def test_nothing_held_out_was_trained_on(tmp_path: Path) -> None:
    recorded = json.loads((tiny.WEIGHTS / "data.json").read_text())
    kinds = ("photos", "fonts", "fonts_of_the_vae_only")
    trained = {entry["sha256"] for kind in kinds for entry in recorded[kind]}
    assert trained >= {assets.sha256(path) for path in _every_file(synthetic.library("train"))}
    side = synthetic.library("heldout")
    held_out = {assets.sha256(path) for path in _every_file(side)}
    demo = {assets.sha256(path) for path in assets.DEMO_PHOTOS.glob("*.jpg")}
    assert len(demo) == 4
    assert demo <= held_out
    write_mini(str(tmp_path))
    sources = {json.loads(line)["source_sha256"] for line in (tmp_path / "annotations.jsonl").open()}
    assert sources <= held_out
    assert not trained & held_out
    names = {Path(entry["file"]).name for kind in kinds for entry in recorded[kind]}
    assert not names & {path.name for path in _every_file(side)}


def _every_file(side: synthetic.Library) -> tuple[Path, ...]:
    return side.fonts + side.icon_fonts + side.photos


@pytest.mark.parametrize(("head_start", "kept"), [(0, 1 / 10), (1, 2 / 11)])
def test_the_average_follows(head_start: int, kept: float) -> None:
    model = torch.nn.Linear(2, 2)
    average = MovingAverage(dict(model.named_parameters()), 0.5, head_start=head_start)
    start = {name: value.clone() for name, value in average.values.items()}
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(1)
    np.testing.assert_allclose(average.values["weight"].numpy(), start["weight"].numpy() + (1 - kept), atol=1e-6)
    for step in range(2, 32):
        average.update(step)
    np.testing.assert_allclose(average.values["weight"].numpy(), start["weight"].numpy() + 1.0, atol=1e-6)
    with average.applied():
        assert torch.equal(model.weight.detach(), average.values["weight"])
