"""From a name to a loaded model: nothing downloaded unasked, nothing but safetensors, and clear words when it fails."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import pretrained
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.load import load_encoders, load_networks, load_transformer, load_vae, model_dtype
from refine_ops.model.presets import LIGHTNING_SHIFT, PRESETS
from refine_ops.model.refiner import load_refiner
from refine_ops.model.source import resolve_model
from refine_ops.records import Refiner

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
VISION = "model.visual.merger.ln_q.weight"


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_folder_loads_with_its_own_sizes_and_the_users_overrides(copied: Path, make_item: Any) -> None:
    (copied / "refine_ops.json").write_text(json.dumps({"vlm_pixels": 4096, "steps": 3, "true_cfg_scale": 1.0}))
    refiner: Refiner = load_refiner(ModelSettings(model=str(copied), steps=2, zero_cond_t=False), CPU)
    assert refiner.grid_px == 32
    item = make_item(0)
    assert refiner.batch_size(refiner.prepare(item).bucket) == 1
    patch = refiner.refine_prepared([refiner.prepare(item)])[0]
    assert patch.pixels.shape == item.image.shape
    assert patch.pixels.dtype == np.float32
    assert patch.pixels.min() >= 0
    assert patch.pixels.max() <= 1
    fingerprint = refiner.fingerprint
    assert fingerprint["preset.steps"] == "2"
    assert fingerprint["preset.zero_cond_t"] == "false"


def test_weights_arrive_unchanged_and_zero_cond_t_is_overridden(checkpoint: Path) -> None:
    saved = random_pipeline(seed=3, zero_cond_t=True)
    for wanted, expected in ((None, True), (False, False)):
        model = resolve_model(ModelSettings(model=str(checkpoint), zero_cond_t=wanted))
        networks = load_networks(model, CPU, torch.float32)
        assert networks.transformer.zero_cond_t is expected
        for name in ("transformer", "vae", "text_encoder"):
            loaded, original = getattr(networks, name).state_dict(), getattr(saved, name).state_dict()
            original.pop("lm_head.weight", None)  # nothing here reads words
            assert loaded.keys() == original.keys()
            assert all(torch.equal(loaded[key], original[key]) for key in loaded)


def test_hub_names_touch_no_network_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("refineanything-2511", "someone/some-model"):
        with pytest.raises(JobError, match=r"set allow_hub \(--allow-hub\) to download it"):
            resolve_model(ModelSettings(model=name))


def test_what_the_cache_holds_opens_without_the_hub(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One rule for every model: a folder, or a hub name that is here already, or `allow_hub`."""
    stored = tmp_path / "models--someone--encoder"
    shutil.copytree(checkpoint / "text_encoder", stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    auto = pretrained.transformers_class("AutoConfig")
    assert pretrained.is_here("someone/encoder")
    opened = pretrained.load(auto, "someone/encoder", False, cache_dir=str(tmp_path))
    assert opened.model_type == "qwen2_5_vl"
    assert not pretrained.is_here("someone/other")
    assert not pretrained.is_here("/no/such/folder")
    with pytest.raises(JobError, match="set allow_hub for a hub name"):
        pretrained.load(auto, "someone/other", False)


@pytest.mark.parametrize("name", ["refineanythin", "./nowhere", "a/b/c", "/nowhere/at/all"])
def test_unknown_names_list_what_there_is(name: str) -> None:
    with pytest.raises(JobError, match=r"tiny, refineanything-2511"):
        resolve_model(ModelSettings(model=name))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "vae"), "vae missing"),
        (lambda folder: (folder / "transformer" / "config.json").unlink(), "cannot be loaded"),
        (lambda folder: truncate(folder / "transformer" / "diffusion_pytorch_model.safetensors"), "cannot be loaded"),
        (lambda folder: edit(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"]), "AutoencoderKLQwen"),
        (lambda folder: edit(folder / "model_index.json", vae=["my_code", "Evil"]), "vae is Evil"),
        (lambda folder: (folder / "refine_ops.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "refine_ops.json").write_text('{"stepz": 3}'), "unknown fields stepz"),
        (lambda folder: (folder / "refine_ops.json").write_text('{"steps": "three"}'), "valid integer"),
        (lambda folder: (folder / "refine_ops.json").write_text('{"steps": 0}'), "at least 1"),
        (lambda folder: (folder / "refine_ops.json").write_text("[1]"), "not a JSON object"),
        (
            lambda folder: without(folder / "transformer" / WEIGHTS, "proj_out.weight"),
            r"first proj_out.weight: .* have None",
        ),
        (
            lambda folder: without(folder / "vae" / WEIGHTS, "encoder.conv_in.bias"),
            r"first encoder.conv_in.bias: .* \[8\], .* None",
        ),
        (
            lambda folder: without(folder / "text_encoder" / "model.safetensors", VISION),
            f"1 weights missing, first {VISION}",
        ),
        (lambda folder: to_pickle(folder / "vae"), "pickled ones are never loaded"),
    ],
)
def test_damaged_folders_are_refused(copied: Path, damage: Any, message: str) -> None:
    damage(copied)
    with pytest.raises(JobError, match=message):
        load_networks(resolve_model(ModelSettings(model=str(copied))), CPU, torch.float32)


@pytest.mark.parametrize(
    ("load", "part", "key"),
    [
        (load_encoders, "vae", "encoder.conv_in.bias"),
        (load_encoders, "text_encoder", VISION),
        (load_transformer, "transformer", "proj_out.weight"),
        (load_vae, "vae", "encoder.conv_in.bias"),
    ],
)
def test_parts_alone_are_checked_as_the_whole_is(copied: Path, load: Any, part: str, key: str) -> None:
    model = resolve_model(ModelSettings(model=str(copied)))
    load(model, CPU, torch.float32)
    without(next((copied / part).glob("*.safetensors")), key)
    with pytest.raises(JobError, match=f"{key}"):
        load(model, CPU, torch.float32)


def test_encoders_alone_leave_the_transformer_without_memory(checkpoint: Path) -> None:
    networks = load_encoders(resolve_model(ModelSettings(model=str(checkpoint))), CPU, torch.float32)
    assert {parameter.device.type for parameter in networks.transformer.parameters()} == {"meta"}
    assert networks.text_encoder.device == CPU


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without(path: Path, key: str) -> None:
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.endswith(key.removeprefix("model.")))]
    save_file(tensors, path, metadata={"format": "pt"})


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def to_pickle(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")


def test_adapters_that_are_no_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="set `registry` too"):
        resolve_model(ModelSettings(model=str(checkpoint), adapters=("current",)))
    with pytest.raises(JobError, match="holds 0 of"):
        resolve_model(ModelSettings(model=str(checkpoint), adapters=(str(tmp_path),)))


def test_fingerprint_follows_content_not_place(checkpoint: Path, copied: Path) -> None:
    def of(folder: Path, **options: Any) -> dict[str, str]:
        settings = ModelSettings(model=str(folder), **options)
        return fingerprint_model(resolve_model(settings), settings)

    original = of(checkpoint)
    assert of(copied) == original
    assert {key for key, value in of(copied, steps=7).items() if value != original[key]} == {"preset.steps"}
    edit(copied / "scheduler" / "scheduler_config.json", base_shift=0.7)
    changed = {key for key, value in of(copied).items() if value != original[key]}
    assert changed == {"weights.scheduler"}


def test_presets_hold_the_released_numbers() -> None:
    lightning = PRESETS["refineanything-2511-lightning-8"]
    assert (lightning.steps, lightning.true_cfg_scale, lightning.zero_cond_t) == (8, 1.0, False)
    assert lightning.shift == pytest.approx(np.log(3)) == LIGHTNING_SHIFT
    assert [lora.repo for lora in lightning.loras] == [
        "limuloo1999/RefineAnything", "lightx2v/Qwen-Image-Edit-2511-Lightning"
    ]  # fmt: skip
    plain = PRESETS["refineanything-2511"]
    assert (plain.steps, plain.true_cfg_scale, len(plain.loras)) == (28, 4.0, 1)
    assert PRESETS["qwen-image-edit-2509"].zero_cond_t is None


def test_dtype_follows_the_device_unless_set() -> None:
    assert model_dtype(ModelSettings(), CPU) == torch.float32
    assert model_dtype(ModelSettings(), torch.device("cuda")) == torch.bfloat16
    assert model_dtype(ModelSettings(dtype="bfloat16"), CPU) == torch.bfloat16


def test_the_vocabulary_head_is_not_kept(copied: Path) -> None:
    networks = load_networks(resolve_model(ModelSettings(model=str(copied))), CPU, torch.float32)
    assert not list(networks.text_encoder.lm_head.parameters())
