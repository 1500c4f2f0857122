"""The scheduled retraining as an operator runs it: build-dataset -> train-lora -> gate -> promote -> refine-batch."""

import json
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from refine_ops import registry
from refine_ops.config import FocusSettings, ModelSettings, RefineBatchConfig, RefineSettings
from refine_ops.data.config import BuildDatasetConfig, SyntheticSource
from refine_ops.train.config import (
    CropSettings,
    GateSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    TrainLoraConfig,
)
from refine_ops.train.samples import read_samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAMILY = "noise"
OTHERS = (
    "defocus_blur", "motion_blur", "down_up_sampling", "local_warp", "stroke_erasure", "inpainting", "jpeg_artefacts",
    "ghosting",
)  # fmt: skip


def _config(root: Path, **run: object) -> TrainLoraConfig:
    values = RunSettings(
        steps=120, batch_size=4, text_multiple=32, reference_share=None, checkpoint_every=60, validate_every=60,
        validation_items=12, grid_items=2, loader_workers=0, processes=1, checkpointing="none",
    )  # fmt: skip
    return TrainLoraConfig(
        dataset=str(root / "data"),
        out=str(root / "run"),
        registry=str(root / "registry"),
        model=ModelSettings(model="tiny", device="cpu"),
        lora=LoraSettings(rank=16, alpha=16),
        crop=CropSettings(geometry=FocusSettings(focus_pixels=64 * 64)),
        loss=LossSettings(shift=1000.0),  # tiny refines in one step, so it is trained where that step is
        optimizer=OptimizerSettings(learning_rate=1e-3, max_grad_norm=1.0, ema_decay=0.98),
        run=values.model_copy(update=run),
        gate=GateSettings(limit=3, min_cases=3),
    )


def test_the_story(tmp_path: Path) -> None:
    from flows.build_dataset import build_dataset
    from flows.refine_batch import refine_batch
    from flows.train_lora import train_lora

    config = _config(tmp_path)
    with prefect_test_harness(server_startup_timeout=300):
        build_dataset(
            BuildDatasetConfig(
                out=config.dataset,
                source=SyntheticSource(count=60, size_px=96),
                exclude=OTHERS,
                validation_share=0.25,
            )
        )
        trained = train_lora(config)
        metrics = trained.result.metrics
        print({name: round(value, 4) for name, value in metrics.items() if "validation" in name})
        assert metrics["validation_loss"] < 0.98 * metrics["base_validation_loss"]
        judged = trained.judged
        assert judged is not None
        print(judged.decision.markdown)
        now = registry.current(str(tmp_path / "registry"))
        assert (now is not None) == judged.promoted
        if not judged.promoted:  # a narrow adapter may well lose on RefineEval-mini; an operator may insist
            registry.promote(str(tmp_path / "registry"), judged.version, "by hand")
        sample = read_samples(config.dataset)[0].input
        manifest = tmp_path / "manifest.jsonl"
        row = {"image": sample, "regions": [{"box": [20, 20, 60, 50], "prompt": "Refine the sign."}]}
        manifest.write_text(json.dumps(row) + "\n")
        model = config.model.model_copy(update={"adapters": ("current",), "registry": config.registry})
        summary = refine_batch(
            RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "batch"), refine=RefineSettings(model=model))
        )
    assert (summary.done, summary.dead) == (1, 0)
    record = (tmp_path / "batch" / "run.json").read_text()
    assert registry.show(str(tmp_path / "registry"), "current").sha256 in record
