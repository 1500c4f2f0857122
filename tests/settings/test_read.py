"""Every setting of a flow changes something in that flow: it is read while the flow runs in tiny form.

Last run: 2026-11-27, the commit after 2e8c871, beside other work: all five passed in 400 s.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import BaseModel

from refine_ops.config import RefineBatchConfig, Settings
from refine_ops.data.config import BuildDatasetConfig, SyntheticSource
from refine_ops.eval.config import RefineEvalConfig
from refine_ops.report.config import DriftReportConfig
from refine_ops.train.config import TrainLoraConfig
from tests.support import ROOT
from tests.support.photos import PHOTOS, photo_config

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]

RECORDER = ROOT / "tests" / "support" / "read_settings"


def leaves(model: type[BaseModel], name: str = "") -> Iterator[str]:
    """Every leaf by its way; what may be one of several kinds of settings has one way for each kind."""
    for field, info in model.model_fields.items():
        called = f"{name}.{field}".lstrip(".")
        kinds = list(_kinds(info.annotation))
        if not kinds and field != "kind":  # which kind it is, is asked by what validates it
            yield called
        for kind in kinds:
            yield from leaves(kind, f"{called}[{kind.__name__}]")


def _kinds(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def read_by(folder: Path, program: str, roots: dict[str, str], *configs: Settings) -> set[str]:
    """What `program` reads of each of `configs`, which it finds in `values`."""
    found = folder / "read.txt"
    for config in configs:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(RECORDER), str(ROOT)]),
            "READ_SETTINGS_FILE": str(found),
            "READ_SETTINGS_ROOTS": json.dumps(roots),
        }
        values = f"import json\nvalues = json.loads({config.model_dump_json()!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", values + program], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return set(found.read_text().splitlines())


def check(model: type[Settings], read: set[str], elsewhere: dict[str, str]) -> None:
    """Every leaf is read, but those that a tiny run has no use for: `elsewhere` names them, or where they begin, and
    says what reads them. What is read after all must not be excused."""
    unread = set(leaves(model)) - read
    assert sorted(leaf for leaf in unread if not leaf.startswith(tuple(elsewhere))) == []
    assert [start for start in elsewhere if not any(leaf.startswith(start) for leaf in unread)] == []


TRAIN = """
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.promotion.promote import decide_promotion, publish
from refine_ops.train.run import train
if __name__ == "__main__":
    config = TrainLoraConfig.model_validate(values)
    decide_promotion(config, publish(config, train(config)).version)
"""


def test_train_lora(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    run = {
        "steps": 2,
        "batch_size": 2,
        "checkpoint_every": 1,
        "validate_every": 1,
        "validation_items": 1,
        "grid_items": 1,
        "loader_workers": 0,
        "sigma_buckets": 1,
        "tracker": "none",
        "processes": 1,
    }
    values: dict[str, Any] = {
        "dataset": str(make_dataset(tmp_path / "set", train=4, validation=1)),
        "out": str(tmp_path / "run"),
        "registry": str(tmp_path / "registry"),
        "model": {"model": "tiny", "device": "cpu"},
        "crop": {"variants": 2, "region_jitter_px": 1},
        "loss": {"sigma": "logit-normal"},
        "optimizer": {"warmup_steps": 1, "ema_decay": 0.9},
        "lora": {"rank": 2},
        "run": run,
        "promotion": {"limit": 2, "min_cases": 2},
    }
    read = read_by(tmp_path, TRAIN, {"TrainLoraConfig": ""}, TrainLoraConfig.model_validate(values))
    elsewhere = {
        "model[ModelSettings].allow_other_base": "an adapter by name",
        "promotion[PromotionSettings].calibrate[": "a promotion that fits gates",
        "model[ModelSettings].licence": "nothing: it is an editor's, and refused",
    }
    check(TrainLoraConfig, read, elsewhere)


BATCH = """
from flows.steps.batch import run_batch
from refine_ops.config import RefineBatchConfig
if __name__ == "__main__":
    run_batch(RefineBatchConfig.model_validate(values))
"""
IN_A_RANK = {"RefineSettings": "refine[RefineSettings]", "WorkerSettings": "worker[WorkerSettings]"}


def test_refine_batch(tmp_path: Path) -> None:
    manifest = tmp_path / "items.jsonl"
    box = {"box": [60, 60, 100, 100], "prompt": "Refine the face"}
    manifest.write_text(json.dumps({"item_id": "a", "image": str(PHOTOS / "astronaut.jpg"), "regions": [box]}) + "\n")
    config = RefineBatchConfig.model_validate(
        {
            "manifest": str(manifest),
            "out": str(tmp_path / "run"),
            "canary": 1,
            "refine": {
                "focus": {"focus_pixels": 4096},
                "model": {"steps": 1, "true_cfg_scale": 1.5},
                "candidates": 2,
            },
        }
    )
    read = read_by(tmp_path, BATCH, {"RefineBatchConfig": "", **IN_A_RANK, "AccessSettings": "access"}, config)
    refine = "refine[RefineSettings]"
    elsewhere = {
        "access[AccessSettings].buckets": "a manifest that names S3",
        "canary_limits[CanaryLimits].allow_unmeasured": "a canary of which nothing could be measured",
        "max_removed": "20 published items and more",
        "lane_": "a work pool",
        "allow_tiny": "a deployment",
        "max_new": "a run folder of another fingerprint",
        "max_redone": "20 items that are done",
        f"{refine}.model[ModelSettings].licence": "an editor whose licence is not for commerce",
        f"{refine}.model[ModelSettings].allow_other_base": "an adapter by name",
        f"{refine}.write[WriteSettings].thumbnail": "a photo with a thumbnail",
        f"{refine}.write[WriteSettings].webp_lossy": "a WebP file",
        "worker[WorkerSettings].max_deaths": "a rank that dies",
    }
    check(RefineBatchConfig, read, elsewhere)


EVAL = """
from refine_ops.eval.config import RefineEvalConfig
from refine_ops.eval.run import evaluate
if __name__ == "__main__":
    evaluate(RefineEvalConfig.model_validate(values))
"""


def test_refine_eval(tmp_path: Path) -> None:
    methods = [{"kind": "refiner", "name": "tiny", "refine": {"focus": {"focus_pixels": 4096}}}]
    methods.append({"kind": "control", "name": "as it is", "control": "identity"})
    config = RefineEvalConfig.model_validate({"out": str(tmp_path / "out"), "methods": methods, "limit": 1})
    read = read_by(tmp_path, EVAL, {"RefineEvalConfig": ""}, config)
    refine = "methods[RefinerMethod].refine[RefineSettings]"
    elsewhere = {
        "grader[": "a VLM",
        "methods[FolderMethod]": "outputs made elsewhere",
        "methods[PipelineMethod]": "a diffusers pipeline",
        "methods[EndpointMethod]": "a closed model",
        f"{refine}.model[ModelSettings].licence": "an editor whose licence is not for commerce",
        f"{refine}.stop": "nothing: another one is refused",
        f"{refine}.read_text": "nothing: another one is refused",
        f"{refine}.publish": "a run: every result is measured here, whatever a gate would say",
        f"{refine}.model[ModelSettings].allow_other_base": "an adapter by name",
        f"{refine}.write[WriteSettings].thumbnail": "a photo with a thumbnail",
        f"{refine}.write[WriteSettings].webp_lossy": "a WebP file",
    }
    check(RefineEvalConfig, read, elsewhere)


BUILD = """
from refine_ops.data.building.build import build
from refine_ops.data.building.dataset_folder import open_folder
from refine_ops.data.config import BuildDatasetConfig
if __name__ == "__main__":
    config = BuildDatasetConfig.model_validate(values)
    list(build(config, open_folder(config).todo))
"""


def test_build_dataset(tmp_path: Path) -> None:
    drawn = BuildDatasetConfig(out=str(tmp_path / "drawn"), source=SyntheticSource(count=3, size_px=64))
    photos = photo_config(tmp_path, samples_per_row=2)
    read = read_by(tmp_path, BUILD, {"BuildDatasetConfig": ""}, drawn, photos)
    source = "source[ManifestSource]"
    elsewhere = {
        "access[AccessSettings].buckets": "a manifest that names S3",
        f"{source}.degrade[DiffusersInpainting]": "a diffusers pipeline",
        f"{source}.ground[DinoGrounding]": "Grounding DINO",
        f"{source}.ground[VlmGrounding]": "a VLM",
        f"{source}.segment[SamSegmentation]": "SAM",
        f"{source}.validation[ValidateSettings].vlm": "a VLM",
    }
    check(BuildDatasetConfig, read, elsewhere)


REPORT = """
from flows.steps.drift import report_drift
from refine_ops.report.config import DriftReportConfig
if __name__ == "__main__":
    report_drift(DriftReportConfig.model_validate(values))
"""


def test_drift_report(tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        picture = Image.new("RGB", (64, 64), "grey")
        if name == "after":
            picture.putpixel((20, 20), (255, 0, 0))
        picture.save(tmp_path / name / "a.png")
    config = DriftReportConfig.model_validate(
        {
            "folders": {"before": str(tmp_path / "before"), "after": str(tmp_path / "after")},
            "out": str(tmp_path / "report"),
            "trend": {"folder": str(tmp_path / "trend")},
            "fail_on": "never",
        }
    )
    read = read_by(tmp_path, REPORT, {"DriftReportConfig": ""}, config)
    check(
        DriftReportConfig,
        read,
        {"perceptual[": "the weights of a metric", "trend[": "a history of runs", "nights": "a run", "runs": "a run"},
    )
