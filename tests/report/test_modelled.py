"""LPIPS and text accuracy: computed by the project's models, into the run folder, and from there into the report."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.steps.drift import measure_with_models
from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import JobError
from refine_ops.eval.run_metrics import RunMeter
from refine_ops.report.build import build_report
from refine_ops.report.config import DriftReportConfig, FolderPair, MeasureSettings, PerceptualSettings
from refine_ops.report.items import read_items
from refine_ops.report.measure.from_models import FILE, with_modelled
from refine_ops.report.run_items import open_run
from tests.support.made_runs import MadeRun, photo_edit, png
from tests.support.trunk_weights import write_trunk

pytestmark = pytest.mark.long

ONE = MeasureSettings(processes=1)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_trunk("alexnet", tmp_path_factory.mktemp("alexnet")).parent)


def test_region_and_raw_lpips_say_what_changed_and_nothing_else(tmp_path: Path, weights: str) -> None:
    run = MadeRun(tmp_path / "run")
    edit = photo_edit(1)
    run.add("untouched", edit.untouched().with_raw())
    run.add("restored", edit.with_raw(soft_px=0.8))
    run.add("drifted", edit.with_raw(soft_px=2.5))
    uri = run.write()
    file = storage.join(uri, FILE)
    meter = RunMeter(PerceptualSettings(weights=weights, device="cpu"))
    assert meter.measure(open_run(uri).items(), file, ImageLimits()) == 3
    found = {c.item_id: c.extra["r0"] for c in with_modelled(open_run(uri).items(), file)}
    assert found["untouched"]["region_lpips"] == 0
    assert found["untouched"]["raw_lpips"] < 0.005, "the model returned the context as it was"
    assert found["restored"]["region_lpips"] > 0.02
    assert found["drifted"]["region_lpips"] == found["restored"]["region_lpips"]
    assert found["drifted"]["raw_lpips"] > 2 * found["restored"]["raw_lpips"] > 0.01
    assert all("text_gain" not in extra for extra in found.values()), "no prompt quotes a text"


def lettering(blur: float) -> np.ndarray:
    image = np.full((200, 320, 3), 235, np.uint8)
    cv2.putText(image, "SUMMER SALE", (28, 112), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (20, 30, 60), 3, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), blur) if blur else image


def test_text_that_a_prompt_quotes_is_read_before_and_after(tmp_path: Path, weights: str) -> None:
    after = cv2.line(lettering(0.0), (10, 180), (310, 180), (20, 30, 60), 3)
    for name, image in (("before", lettering(9.0)), ("after", after)):
        storage.write(str(tmp_path / name / "sign.png"), png(image))
    line = '{"image": "sign.png", "box": [20, 70, 310, 130], "prompt": "Refine the text \\"Summer Sale\\""}'
    storage.write(str(tmp_path / "regions.jsonl"), line.encode())
    folders = FolderPair(
        before=str(tmp_path / "before"), after=str(tmp_path / "after"), regions=str(tmp_path / "regions.jsonl")
    )
    perceptual = PerceptualSettings(weights=weights, device="cpu")
    out = str(tmp_path / "report")
    config = DriftReportConfig(folders=folders, out=out, measure=ONE, perceptual=perceptual)
    measure_with_models(config, perceptual)
    build_report(config)
    row = read_items(out).to_pylist()[0]
    assert row["text_gain"] > 0.7
    assert row["region_lpips"] > 0.2
    assert row["raw_lpips"] > 0.02, "the line below the region, which another tool drew"


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"alexnet\.safetensors into perceptual\.weights"):
        RunMeter(PerceptualSettings(weights=str(tmp_path)))
