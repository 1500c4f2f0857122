"""The loop on the bundled checkpoint: it learns, resumes exactly, stops on a bad loss, and agrees across ranks."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as plus
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from refine_ops.config import FocusSettings, ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.refiner import load_refiner
from refine_ops.model.tiny import WEIGHTS
from refine_ops.records import Conditioning
from refine_ops.train.checkpoint import checkpoints
from refine_ops.train.config import (
    CropSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    TrainLoraConfig,
)
from refine_ops.train.metrics_log import LossWatch, read_metrics
from refine_ops.train.run import placed, train, training_fingerprint
from refine_ops.train.run_folder import open_run
from refine_ops.train.samples.dataset import dataset_digest, read_samples
from refine_ops.train.trainer import Stopped
from refine_ops.train.worker import run_rank

pytestmark = pytest.mark.long

RUN = RunSettings(
    steps=6, batch_size=4, micro_batch=1, checkpoint_every=2, keep_checkpoints=10, validate_every=3, validation_items=2,
    sigma_buckets=3, grid_items=1, loader_workers=0, reference_share=0.5, tracker="none", save_dtype="float32",
    processes=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), train=6, validation=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _config(dataset: Path, cache: Path, out: Path, **run: object) -> TrainLoraConfig:
    return TrainLoraConfig(
        dataset=str(dataset),
        out=str(out),
        cache=str(cache),
        model=ModelSettings(model="tiny", device="cpu"),
        lora=LoraSettings(rank=4, alpha=4),
        crop=CropSettings(geometry=FocusSettings(focus_pixels=64 * 64), reference_dropout=0.25),
        optimizer=OptimizerSettings(learning_rate=2e-3, ema_decay=0.9, max_grad_norm=5.0),
        run=RUN.model_copy(update=run),
    )


def _train_here(config: TrainLoraConfig) -> dict[str, torch.Tensor]:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    run_rank(config, training_fingerprint(config), out, read_samples(config.dataset))
    return load_file(out / "adapter" / "pytorch_lora_weights.safetensors")


def _losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def straight(dataset: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps without a break."""
    out = tmp_path_factory.mktemp("straight")
    _train_here(_config(dataset, cache, out))
    return out


def _adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "pytorch_lora_weights.safetensors")


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_held_out_loss_falls(straight: Path) -> None:
    rows = [row for row in read_metrics(straight / "metrics.jsonl") if "validation_loss" in row]
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert {f"validation_sigma_{s:.4f}" for s in (1 / 6, 0.5, 5 / 6)} <= rows[0].keys()


def test_progress_is_recorded(straight: Path) -> None:
    rows = [row for row in read_metrics(straight / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert all(row["samples_per_s"] > 0 and row["tokens_per_s"] > row["samples_per_s"] for row in rows)
    assert rows[-1]["eta_s"] == 0
    assert sorted(p.name for p in (straight / "validation").iterdir()) == [f"step-0000000{n}.png" for n in (0, 3, 6)]


def test_asked_to_stop_and_run_again_is_the_same_bit_for_bit(
    straight: Path, dataset: Path, cache: Path, tmp_path: Path
) -> None:
    config = _config(dataset, cache, tmp_path)

    def ask_after_two_steps() -> None:
        while not (tmp_path / "checkpoints" / "step-00000002").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_after_two_steps, daemon=True)
    asking.start()
    with pytest.raises(Stopped, match="run the same command again"):
        _train_here(config)
    asking.join()
    done = checkpoints(tmp_path / "checkpoints")[-1]
    assert "step-00000002" <= done.name < "step-00000006"
    assert not (tmp_path / "adapter").exists()
    _train_here(config)
    assert _losses(tmp_path) == _losses(straight)
    assert _equal(_adapter(tmp_path), _adapter(straight))


@pytest.mark.processes
def test_killed_and_run_again_is_the_same_bit_for_bit(
    straight: Path, dataset: Path, cache: Path, tmp_path: Path
) -> None:
    config = _config(dataset, cache, tmp_path, checkpoint_every=1)

    def kill_after_two_steps() -> None:
        if (tmp_path / "checkpoints" / "step-00000002").exists():
            found = subprocess.run(["pgrep", "-f", str(tmp_path / "job.json")], capture_output=True, text=True)
            for pid in found.stdout.split():
                os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(JobError, match="a training rank died"):
        train(config, on_tick=kill_after_two_steps)
    assert not (tmp_path / "result.json").exists()
    result = train(config)
    assert _losses(tmp_path) == _losses(straight)
    assert _equal(_adapter(tmp_path), _adapter(straight))
    assert result.metrics["validation_loss"] < result.metrics["base_validation_loss"]
    assert train(config) == result


@pytest.mark.processes
def test_two_ranks_agree_with_one(straight: Path, dataset: Path, cache: Path, tmp_path: Path) -> None:
    train(_config(dataset, cache, tmp_path, processes=2))
    assert _losses(tmp_path) == pytest.approx(_losses(straight), rel=1e-4)
    one, two = _adapter(straight), _adapter(tmp_path)
    start = _adapter_at_start(one)
    moved = max(float((one[n] - start[n]).abs().max()) for n in one)
    assert all(torch.allclose(one[n], two[n], atol=0.02 * moved) for n in one)
    first, second = (read_metrics(out / "metrics.jsonl")[-1] for out in (straight, tmp_path))
    assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=1e-4)


def _adapter_at_start(adapter: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """B starts at zero; A's own start does not matter for how far B has moved."""
    return {name: torch.zeros_like(t) if ".lora_B." in name else t for name, t in adapter.items()}


def test_the_adapter_in_plain_diffusers_gives_the_refiners_pixels(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the pipeline's own sizes: thumbnails of about 384^2, sides in multiples of 32.
    folder = tmp_path / "model"
    folder.mkdir()
    for part in WEIGHTS.iterdir():
        if part.name != "refine_ops.json":
            (folder / part.name).symlink_to(part)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[16:40, 30:60] = True
    item = Conditioning(image, mask, mask, "Refine the sign in the masked region.", seed=11)

    def refined(*adapters: str) -> np.ndarray:
        settings = ModelSettings(
            model=str(folder), adapters=adapters, steps=3, true_cfg_scale=1.0, speed="reference", device="cpu"
        )
        return load_refiner(settings, torch.device("cpu")).refine([item])[0].pixels

    pipeline = plus.QwenImageEditPlusPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.load_lora_weights(str(straight / "adapter"))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(plus, "VAE_IMAGE_SIZE", 64 * 96)
    encoder, forward = pipeline.text_encoder, type(pipeline.text_encoder).forward

    def with_token_types(input_ids: torch.Tensor, **arguments: Any) -> Any:
        types = (input_ids == encoder.config.image_token_id).int()
        return forward(encoder, input_ids=input_ids, mm_token_type_ids=types, **arguments)

    monkeypatch.setattr(encoder, "forward", with_token_types)
    expected = pipeline(
        image=[Image.fromarray(image), Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")],
        prompt=item.prompt, true_cfg_scale=1.0, height=64, width=96, num_inference_steps=3, output_type="np",
        generator=torch.Generator().manual_seed(11),
    ).images[0]  # fmt: skip
    ours, base = refined(str(straight / "adapter")), refined()
    # The refiner fuses, the pipeline adds: rounding differs.
    assert np.abs(ours - expected).max() < 1e-4
    assert np.abs(ours - base).max() > 20 * np.abs(ours - expected).max()


def test_a_resume_with_other_settings_is_refused_by_name(straight: Path, dataset: Path, cache: Path) -> None:
    config = _config(dataset, cache, straight)
    open_run(config, training_fingerprint(config), "set 1")
    other = config.model_copy(update={"loss": LossSettings(boundary_alpha=3.0)})
    with pytest.raises(JobError, match=r"loss\.boundary_alpha: 9\.0 there, 3\.0 now"):
        open_run(other, training_fingerprint(other), "set 1")
    longer = config.model_copy(update={"run": config.run.model_copy(update={"steps": 9})})
    assert open_run(longer, training_fingerprint(longer), "set 1") == straight
    drifted = {**training_fingerprint(config), "version.torch": "9.9"}
    with pytest.raises(JobError, match=r"version\.torch: .* there, 9\.9 now"):
        open_run(config, drifted, "set 1")
    with pytest.raises(JobError, match=r"samples: set 1 there, set 2 now.*\{fingerprint\} in it"):
        open_run(config, training_fingerprint(config), "set 2")


def test_a_schedule_with_one_out_trains_once_for_each_data_and_settings(
    dataset: Path, cache: Path, tmp_path: Path
) -> None:
    config = _config(dataset, cache, tmp_path / "{fingerprint}" / "run")
    first = placed(config)
    assert first.out.startswith(f"{tmp_path}/")
    assert placed(config) == first == placed(first), "the same every Saturday"
    assert Path(first.out).parent.name != "{fingerprint}"
    moved = tmp_path / "moved"
    shutil.copytree(dataset, moved)
    assert placed(config.model_copy(update={"dataset": str(moved)})).out != first.out, "the settings name another set"
    part = next((moved / "samples").glob("*.parquet"))
    before = dataset_digest(str(moved))
    table = pq.read_table(part)
    pq.write_table(table.slice(1).replace_schema_metadata(table.schema.metadata), part)
    assert before == dataset_digest(str(dataset)) != dataset_digest(str(moved))
    other = config.model_copy(update={"loss": LossSettings(boundary_alpha=3.0)})
    assert placed(other).out != first.out
    with pytest.raises(ValueError, match="a training's folder is local"):
        _config(dataset, cache, Path("x")).model_validate({**config.model_dump(), "out": "s3://lake/training"})


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_samples(
    dataset: Path, cache: Path, tmp_path: Path, straight: Path
) -> None:
    damaged = tmp_path / "cache"
    damaged.mkdir()
    for file in cache.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (shard,) = damaged.glob("*.safetensors")
    tensors = load_file(shard)
    save_file({n: t * float("nan") if t.is_floating_point() and t.ndim == 3 else t for n, t in tensors.items()}, shard)
    out = tmp_path / "run"
    with pytest.raises(JobError, match="step 1 was not taken: loss nan"):
        _train_here(_config(dataset, damaged, out))
    record = json.loads((out / "stopped.json").read_text())
    assert record["step"] == 1
    assert len(record["samples"]) == 4
    assert all(name.startswith("train-") for name in record["samples"])
    assert not (out / "adapter").exists()


def test_an_exploding_loss_is_told_from_a_noisy_one() -> None:
    watch = LossWatch(limit=20.0, recent=[])
    for k in range(60):
        assert watch.objection(1.0 + (k % 7), 1.0) is None
    assert "its recent median" in (watch.objection(500.0, 1.0) or "")
    assert watch.objection(30.0, 1.0) is None
    assert watch.objection(float("inf"), 1.0) is not None
    assert watch.objection(1.0, float("nan")) is not None


def test_a_batch_that_micro_batches_do_not_fill_is_refused(dataset: Path, cache: Path, tmp_path: Path) -> None:
    values = _config(dataset, cache, tmp_path).model_dump()
    values["run"] |= {"batch_size": 3, "micro_batch": 2}
    with pytest.raises(ValueError, match="not a multiple"):
        TrainLoraConfig.model_validate(values)
