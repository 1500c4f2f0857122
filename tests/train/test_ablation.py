"""Table 3's trainings differ in one setting each, and one command trains and compares them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from refine_ops.config import FocusSettings, ModelSettings, PatchSettings
from refine_ops.errors import JobError
from refine_ops.eval.config import MetricSettings
from refine_ops.train.config import (
    CropSettings,
    LoraSettings,
    LossSettings,
    PromotionSettings,
    RunSettings,
    TrainLoraConfig,
)
from refine_ops.train.promotion.ablation import BASE, WHOLE, WITHOUT_BOUNDARY, WITHOUT_FOCUS, evaluation, variants
from tests.support import ROOT

FROZEN = ROOT / "tests" / "eval" / "frozen"


def _config(dataset: Path, out: Path) -> TrainLoraConfig:
    return TrainLoraConfig(
        dataset=str(dataset),
        out=str(out),
        model=ModelSettings(model="tiny", device="cpu"),
        lora=LoraSettings(rank=2, alpha=2),
        crop=CropSettings(geometry=FocusSettings(focus_pixels=64 * 64)),
        run=RunSettings(
            steps=2, batch_size=2, checkpoint_every=2, validation_items=0, grid_items=0, loader_workers=0,
            reference_share=None, tracker="none", processes=1,
        ),
        promotion=PromotionSettings(
            cases=str(FROZEN), limit=2, refine=PatchSettings(focus=FocusSettings(focus_pixels=64 * 64)),
            metrics=MetricSettings(text=False),
        ),
    )  # fmt: skip


def test_each_variant_differs_from_the_whole_method_in_one_setting(tmp_path: Path) -> None:
    config = _config(tmp_path / "data", tmp_path / "out")
    by_name = {variant.name: variant.train.model_dump() for variant in variants(config)}
    whole = by_name.pop(WHOLE)
    assert by_name.keys() == {WITHOUT_FOCUS, WITHOUT_BOUNDARY}
    for name, changed in by_name.items():
        different = {key for key in whole if whole[key] != changed[key]} - {"out"}
        assert different == {"crop" if name == WITHOUT_FOCUS else "loss"}
    assert by_name[WITHOUT_FOCUS]["crop"] == whole["crop"] | {"focus": False}
    assert by_name[WITHOUT_BOUNDARY]["loss"] == whole["loss"] | {"boundary_alpha": 0.0}


def test_each_adapter_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    adapters = {name: tmp_path / name for name in (WHOLE, WITHOUT_FOCUS, WITHOUT_BOUNDARY)}
    asked = evaluation(_config(tmp_path / "data", tmp_path / "out"), adapters)
    methods = {m.name: m for m in asked.methods if m.kind == "refiner"}
    assert list(methods) == [WHOLE, WITHOUT_FOCUS, WITHOUT_BOUNDARY, BASE]
    assert [m.refine.model.adapters for m in methods.values()] == [*((str(a),) for a in adapters.values()), ()]
    margins = {name: m.refine.focus.margin for name, m in methods.items()}
    assert margins.pop(WITHOUT_FOCUS) > 100_000
    assert set(margins.values()) == {64}
    assert {m.refine.focus.focus_pixels for m in methods.values()} == {64 * 64}
    assert [name for name, m in methods.items() if not m.ablation] == [WHOLE]


def test_an_ablation_of_half_a_method_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path, tmp_path)
    for changes in ({"loss": LossSettings(boundary_alpha=0.0)}, {"crop": CropSettings(focus=False)}):
        with pytest.raises(JobError, match="starts from the whole method"):
            variants(config.model_copy(update=changes))


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_flow_trains_all_and_gives_table_3(
    tmp_path: Path, make_dataset: Callable[..., Path], prefect_api: None
) -> None:
    from flows.train_lora import train_ablations

    config = _config(make_dataset(tmp_path / "data", train=4, validation=0), tmp_path / "out")
    done = train_ablations(config)
    third = next(t for t in done.tables if t.title.startswith("Table 3"))
    assert [row.cells[0] for row in third.rows] == [WHOLE, WITHOUT_FOCUS, WITHOUT_BOUNDARY, BASE, "published *"]
    adapters = [
        tmp_path / "out" / v / "adapter" / "pytorch_lora_weights.safetensors"
        for v in ("with-both", "without-focus", "without-boundary-loss")
    ]
    assert len({path.read_bytes() for path in adapters}) == 3
    scores = {m: done.results.values(m, "changed_outside_px") for m in done.results.methods}
    assert all(value == 0 for found in scores.values() for _, value in found.values())
