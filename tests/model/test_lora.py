"""LoRA files: fused here equals applied by PEFT through diffusers; whatever does not fit completely is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.load import load_networks
from refine_ops.model.lora import fuse_loras, read_lora
from refine_ops.model.source import METADATA_KEY, resolve_model

LAYER = "transformer_blocks.1.img_mlp.net.2"
INPUTS = {
    "hidden_states": (1, 10, 64),
    "encoder_hidden_states": (1, 5, 32),
}


@pytest.fixture
def transformer() -> Any:
    return random_pipeline(seed=3).transformer


def velocity(transformer: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in INPUTS.items()}
    shapes = [[(1, 2, 3), (1, 2, 2)]]
    with torch.no_grad():
        result: torch.Tensor = transformer(
            **{name: value.to(transformer.dtype) for name, value in inputs.items()},
            timestep=torch.tensor([0.5], dtype=transformer.dtype), img_shapes=shapes, return_dict=False,
        )[0]  # fmt: skip
    return result


def diffusers_file(folder: Path, seed: int, **config: Any) -> Path:
    """A random adapter saved as diffusers saves one, header with ranks and alphas included."""
    pipeline = random_pipeline(seed=3)
    torch.manual_seed(seed)
    pipeline.transformer.add_adapter(LoraConfig(init_lora_weights=False, **config), "made")
    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer, adapter_name="made"),
        transformer_lora_adapter_metadata=pipeline.transformer.peft_config["made"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


def unfused(files: list[Path], scales: list[float]) -> Any:
    """The transformer with the adapters loaded by diffusers and left to PEFT."""
    pipeline = random_pipeline(seed=3)
    names = [f"adapter_{index}" for index in range(len(files))]
    for file, name in zip(files, names, strict=True):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    pipeline.set_adapters(names, scales)
    return pipeline.transformer


def layer_tensors(rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{LAYER}.lora_A.weight": torch.randn(rank, 192, generator=generator),
        f"{LAYER}.lora_B.weight": torch.randn(48, rank, generator=generator),
    }


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_out.0", "net.2"]},
        {"r": 4, "lora_alpha": 4, "target_modules": ["to_k", "to_v"], "rank_pattern": {"to_v": 2},
         "alpha_pattern": {"to_v": 6}},
        {"r": 9, "lora_alpha": 3, "target_modules": ["add_q_proj", "img_mod.1"], "use_rslora": True},
    ],
)  # fmt: skip
def test_fused_equals_peft(tmp_path: Path, transformer: Any, config: dict[str, Any]) -> None:
    file = diffusers_file(tmp_path, seed=1, **config)
    plain = velocity(transformer)
    fuse_loras(transformer, [(file, 1.0)])
    expected = velocity(unfused([file], [1.0]))
    assert (expected - plain).abs().max() > 0.01, "the adapter must change something"
    torch.testing.assert_close(velocity(transformer), expected, rtol=1e-5, atol=1e-5)


def test_two_loras_fused_together_equal_both_active_unfused(tmp_path: Path, transformer: Any) -> None:
    first = diffusers_file(tmp_path / "a", seed=1, r=4, lora_alpha=8, target_modules=["to_q", "net.2"])
    second = diffusers_file(tmp_path / "b", seed=2, r=2, lora_alpha=2, target_modules=["to_q", "to_k"])
    fuse_loras(transformer, [(first, 1.0), (second, 0.5)])
    both = velocity(unfused([first, second], [1.0, 0.5]))
    torch.testing.assert_close(velocity(transformer), both, rtol=1e-5, atol=1e-5)


def test_bfloat16_weights_are_rounded_once(tmp_path: Path) -> None:
    """Two deltas in a bf16 model: the sum is formed in fp32, so the error is half a unit in the last place (2^-9)."""
    exact, rounded = random_pipeline(seed=3).transformer, random_pipeline(seed=3).transformer.to(torch.bfloat16)
    start = rounded.get_submodule(LAYER).weight.float()
    exact.get_submodule(LAYER).weight.copy_(start)
    for model in (exact, rounded):
        files = [diffusers_file(tmp_path / str(seed), seed, r=4, target_modules=["net.2"]) for seed in (1, 2)]
        fuse_loras(model, [(file, 1.0) for file in files])
    expected = exact.get_submodule(LAYER).weight
    torch.testing.assert_close(rounded.get_submodule(LAYER).weight, expected.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"transformer.{key}",
        lambda key: f"diffusion_model.{key}",
        lambda key: f"base_model.model.{key}",
        lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
        lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
    ],
)
def test_key_styles(tmp_path: Path, rename: Any) -> None:
    tensors = layer_tensors()
    save_file({rename(key): value for key, value in tensors.items()}, tmp_path / "lora.safetensors")
    delta = read_lora(tmp_path / "lora.safetensors")[LAYER]
    assert torch.equal(delta.down, tensors[f"{LAYER}.lora_A.weight"])
    assert torch.equal(delta.up, tensors[f"{LAYER}.lora_B.weight"])
    assert delta.scale == 1.0


def test_alpha_tensor_scales_by_rank(tmp_path: Path) -> None:
    save_file({**layer_tensors(rank=4), f"{LAYER}.alpha": torch.tensor(1.0)}, tmp_path / "lora.safetensors")
    assert read_lora(tmp_path / "lora.safetensors")[LAYER].scale == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k.replace("img_mlp", "img_mpl"): v for k, v in t.items()}, "not in the transformer"),
        (lambda t: {k: v for k, v in t.items() if "lora_A" in k}, "incomplete"),
        (lambda t: {**t, f"{LAYER}.lora_C.weight": torch.ones(1)}, "not a key of a LoRA"),
        (lambda t: {k: v[:, :-1] if "lora_A" in k else v for k, v in t.items()}, "the model's is"),
        (lambda t: {**t, "text_encoder.q.lora_A.weight": torch.ones(2, 2)}, "incomplete"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    tmp_path: Path, transformer: Any, change: Any, message: str
) -> None:
    before = {key: value.clone() for key, value in transformer.state_dict().items()}
    save_file({key: value.contiguous() for key, value in change(layer_tensors()).items()}, tmp_path / "l.safetensors")
    with pytest.raises(JobError, match=message):
        fuse_loras(transformer, [(tmp_path / "l.safetensors", 1.0)])
    assert all(torch.equal(before[key], value) for key, value in transformer.state_dict().items())


def test_dora_and_broken_files_are_refused(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    save_file(layer_tensors(), tmp_path / "dora.safetensors", metadata=metadata)
    with pytest.raises(JobError, match="DoRA"):
        read_lora(tmp_path / "dora.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(JobError, match="cannot be read as safetensors"):
        read_lora(tmp_path / "broken.safetensors")


def test_adapter_states_how_it_was_trained(tmp_path: Path, checkpoint: Path) -> None:
    stated = {"targets": "sparse", "mask_image": "none"}
    save_file(layer_tensors(), tmp_path / "lora.safetensors", metadata={METADATA_KEY: json.dumps(stated)})
    adapters = (str(tmp_path / "lora.safetensors"),)
    preset = resolve_model(ModelSettings(model=str(checkpoint), adapters=adapters)).preset
    assert (preset.targets, preset.mask_image) == ("sparse", "none")
    chosen = resolve_model(ModelSettings(model=str(checkpoint), adapters=adapters, targets="dense")).preset
    assert (chosen.targets, chosen.mask_image) == ("dense", "none"), "the user's word is last"


def test_adapter_is_fused_on_load(tmp_path: Path, checkpoint: Path) -> None:
    save_file(layer_tensors(), tmp_path / "pytorch_lora_weights.safetensors")
    model = resolve_model(ModelSettings(model=str(checkpoint), adapters=(str(tmp_path),)))
    loaded = load_networks(model, torch.device("cpu"), torch.float32).transformer.get_submodule(LAYER).weight
    tensors = layer_tensors()
    change = tensors[f"{LAYER}.lora_B.weight"] @ tensors[f"{LAYER}.lora_A.weight"]
    start = random_pipeline(seed=3).transformer.get_submodule(LAYER).weight
    torch.testing.assert_close(loaded, start + change)
