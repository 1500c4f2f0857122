"""The trainable model against diffusers' own transformer, and its file in plain diffusers."""

import copy
from pathlib import Path

import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.lora import fuse_loras
from refine_ops.model.presets import Preset
from refine_ops.model.run.velocities import velocities_of
from refine_ops.model.source import training_settings
from refine_ops.train.adapter import adapter_bytes
from refine_ops.train.config import LoraSettings
from refine_ops.train.denoiser import Denoiser, trainable

LORA = LoraSettings(rank=4, alpha=8)
SHAPES = [(1, 3, 4), (1, 3, 4), (1, 2, 2)]


def _inputs(transformer: torch.nn.Module, batch: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    channels, text = transformer.config.in_channels, transformer.config.joint_attention_dim
    return {
        "x": torch.randn(batch, 12, channels, generator=g),
        "condition": torch.randn(batch, 16, channels, generator=g),
        "text": torch.randn(batch, 7, text, generator=g),
        "sigma": torch.tensor([0.7]),
    }


def _denoiser(
    checkpointing: str = "none", lora: LoraSettings = LORA, zero_cond_t: bool = False, conditions: str = "joint"
) -> Denoiser:
    model = Denoiser(
        random_pipeline(zero_cond_t=zero_cond_t).transformer,
        lora,
        seed=0,
        checkpointing=checkpointing,
        compiled=False,
        conditions=conditions,
    )
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g))
    return model


def _peer(transformer: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The velocity by diffusers' own forward pass."""
    output: torch.Tensor = transformer(
        hidden_states=torch.cat([inputs["x"], inputs["condition"]], 1),
        encoder_hidden_states=inputs["text"],
        timestep=inputs["sigma"].expand(2),
        img_shapes=[SHAPES] * 2,
        return_dict=False,
    )[0]
    return output[:, :12]


def _velocity(model: Denoiser, inputs: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> torch.Tensor:
    x = inputs["x"] if targets is None else torch.gather(inputs["x"], 1, targets[..., None].expand(-1, -1, 64))
    return model(x, inputs["condition"], inputs["text"], None, inputs["sigma"], SHAPES, targets)


@pytest.mark.parametrize("zero_cond_t", [False, True])
def test_the_velocity_is_that_of_diffusers_transformer_with_the_same_adapter(zero_cond_t: bool) -> None:
    model = _denoiser(zero_cond_t=zero_cond_t)
    inputs = _inputs(model.transformer)
    peer = _peer(model.transformer, inputs)
    torch.testing.assert_close(_velocity(model, inputs), peer, atol=1e-5, rtol=1e-5)


def test_without_training_the_adapter_changes_nothing() -> None:
    pipeline = random_pipeline()
    inputs = _inputs(pipeline.transformer)
    with torch.no_grad():
        base = _peer(pipeline.transformer, inputs)
        model = Denoiser(pipeline.transformer, LORA, seed=0, checkpointing="none", compiled=False)
        torch.testing.assert_close(_velocity(model, inputs), base, atol=1e-5, rtol=1e-5)


def test_only_attention_projections_are_trained() -> None:
    names = {n.rsplit(".lora_", 1)[0].split(".attn.")[1] for n in trainable(_denoiser())}
    assert names == {"to_q", "to_k", "to_v", "to_out.0"}


@pytest.mark.parametrize("text_stream", [False, True])
def test_every_trained_matrix_receives_a_gradient(text_stream: bool) -> None:
    # A parameter without one would hang a distributed run.
    model = _denoiser(lora=LORA.model_copy(update={"text_stream": text_stream}))
    _velocity(model, _inputs(model.transformer)).square().mean().backward()
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("checkpointing", ["block", "selective"])
def test_recomputing_gives_the_very_same_gradients(checkpointing: str) -> None:
    def gradients(kind: str) -> dict[str, torch.Tensor]:
        model = _denoiser(kind)
        _velocity(model, _inputs(model.transformer)).square().mean().backward()
        return {name: p.grad for name, p in trainable(model).items() if p.grad is not None}

    kept, recomputed = gradients("none"), gradients(checkpointing)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of one core each, all of it the compiler
@pytest.mark.parametrize("checkpointing", ["block", "selective", "none"])
def test_compiled_blocks_give_the_same_gradients(checkpointing: str) -> None:
    def gradients(compiled: bool) -> dict[str, torch.Tensor]:
        model = _denoiser()
        model.run_blocks_with(checkpointing, compiled)
        _velocity(model, _inputs(model.transformer)).square().mean().backward()
        return {name: p.grad for name, p in trainable(model).items() if p.grad is not None}

    eager, compiled = gradients(False), gradients(True)
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], atol=1e-5, rtol=1e-4)


def test_all_tokens_as_sparse_targets_are_the_dense_velocity() -> None:
    model = _denoiser()
    inputs = _inputs(model.transformer)
    every = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(_velocity(model, inputs, every), _velocity(model, inputs), atol=1e-6, rtol=1e-6)


def test_the_start_depends_on_the_seed_alone() -> None:
    first = trainable(Denoiser(random_pipeline().transformer, LORA, seed=5, checkpointing="none", compiled=False))
    torch.manual_seed(99)
    again = trainable(Denoiser(random_pipeline().transformer, LORA, seed=5, checkpointing="none", compiled=False))
    other = trainable(Denoiser(random_pipeline().transformer, LORA, seed=6, checkpointing="none", compiled=False))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("text_stream", [False, True])
def test_the_file_loads_in_plain_diffusers_and_in_the_refiner(tmp_path: Path, text_stream: bool) -> None:
    lora = LORA.model_copy(update={"text_stream": text_stream})
    model = _denoiser(lora=lora)
    inputs = _inputs(model.transformer)
    trained = _velocity(model, inputs).detach()
    data = adapter_bytes(
        trainable(model),
        rank=lora.rank,
        alpha=lora.alpha,
        trained_as={"targets": "sparse"},
        fingerprint={"torch": "x"},
        dtype=torch.float32,
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(data)
    assert training_settings(file) == {"targets": "sparse"}

    pipeline = random_pipeline()
    pipeline.load_lora_weights(str(tmp_path))
    peer = _peer(pipeline.transformer, inputs)
    torch.testing.assert_close(trained, peer, atol=1e-5, rtol=1e-5)

    fused = random_pipeline().transformer
    base = copy.deepcopy(fused.state_dict())
    fuse_loras(fused, [(file, 1.0)])
    changed = [n for n, p in fused.state_dict().items() if not torch.equal(p, base[n])]
    assert len(changed) == len(trainable(model)) // 2
    peer = _peer(fused, inputs)
    torch.testing.assert_close(trained, peer, atol=1e-4, rtol=1e-4)


def test_bfloat16_weights_keep_fp32_masters_and_a_bfloat16_stream() -> None:
    model = Denoiser(
        random_pipeline(dtype=torch.bfloat16).transformer, LORA, seed=0, checkpointing="block", compiled=False
    )
    velocity = _velocity(model, _inputs(model.transformer))
    assert velocity.dtype == torch.bfloat16
    velocity.float().square().mean().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in trainable(model).values())


@pytest.mark.parametrize("conditions", ["cached", "cached+text"])
def test_cached_conditions_are_trained_as_they_are_run(conditions: str) -> None:
    model = _denoiser(checkpointing="selective", zero_cond_t=True, conditions=conditions)
    inputs = _inputs(model.transformer)
    trained = _velocity(model, inputs)
    trained.square().mean().backward()
    missing = [name for name, parameter in trainable(model).items() if parameter.grad is None]
    # Of the last block's conditions nothing but keys and values is read, and those are shared with the targets'.
    assert not missing, "every update reaches the targets, through the cache too"
    preset = Preset(source="random", conditions=conditions)
    with torch.no_grad():
        run = velocities_of(model.transformer, preset, ModelSettings(), torch.device("cpu"))
        text = (inputs["text"], None)
        (velocity,) = run([text], inputs["condition"], SHAPES, None, inputs["sigma"])
        torch.testing.assert_close(velocity(0, inputs["x"]), trained, atol=1e-5, rtol=1e-5)


def test_conditions_that_change_in_every_step_cannot_be_trained_as_cached() -> None:
    with pytest.raises(JobError, match="zero_cond_t"):
        _denoiser(conditions="cached")
