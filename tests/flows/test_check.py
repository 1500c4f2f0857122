"""`check --open`, `--sheet` and `--plan-only`: what each region marks, seen before anything is refined."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.check import Checked, check_manifest, open_sample
from flows.cli.estimate import plan_only
from refine_ops.config import RefineBatchConfig
from refine_ops.image.sheet import tinted
from refine_ops.job.planning.plan import PlanReader, make_plan

from .test_refine_batch import cli, png


@pytest.fixture
def site(tmp_path: Path, photo: np.ndarray) -> Path:
    (tmp_path / "photo.png").write_bytes(png(photo))
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[100:140, 200:250] = 255
    (tmp_path / "mask.png").write_bytes(png(mask))
    (tmp_path / "keep.png").write_bytes(png(255 - mask))
    return tmp_path


REGIONS = {
    "boxed": {"box": [200, 100, 250, 140]},
    "masked": {"mask": "mask.png"},
    "drawn": {"scribble": {"strokes": [[[20, 20], [60, 20]]], "width": 10}},
    "whole": {"box": [0, 0, 512, 512]},
    "inverted": {"mask": "keep.png"},
}


def write(site: Path, regions: dict[str, dict[str, object]]) -> str:
    rows = [{"item_id": n, "image": "photo.png", "regions": [{**r, "prompt": "x"}]} for n, r in regions.items()]
    (site / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(site / "m.jsonl")


def checked(site: Path, regions: dict[str, dict[str, object]], **how: object) -> Checked:
    return check_manifest(RefineBatchConfig(manifest=write(site, regions)), open_files=True, **how)


def test_every_region_says_what_it_marks_and_how_large_it_is_seen(site: Path) -> None:
    found = {mark.label.split(" / ")[0]: mark for mark in checked(site, REGIONS).marks}
    assert {n: m.marked_px for n, m in found.items() if n != "drawn"} == {
        "boxed": 2000,
        "masked": 2000,
        "whole": 512 * 512,
        "inverted": 512 * 512 - 2000,
    }
    assert 400 < found["drawn"].marked_px < 520
    assert found["boxed"].zoom == found["masked"].zoom > 0.7
    assert found["whole"].zoom == pytest.approx(1.0, abs=0.02)
    assert found["whole"].tiles > 16
    assert found["boxed"].tiles == 1
    assert f"{found['whole'].tiles} times a small region's time" in found["whole"].notes[0]
    assert found["boxed"].notes == found["masked"].notes == found["drawn"].notes == ()
    assert "larger than the model's picture" in found["whole"].notes[0]
    assert "mask_invert" in found["inverted"].notes[-1]


def test_a_model_with_a_larger_picture_sees_more(site: Path) -> None:
    config = RefineBatchConfig.model_validate(
        {"manifest": write(site, REGIONS), "refine": {"model": {"model": "refineanything-2511-lightning-8"}}}
    )
    whole = next(m for m in check_manifest(config, open_files=True).marks if m.label.startswith("whole"))
    assert whole.zoom == pytest.approx(2.0, abs=0.1)
    assert whole.notes == ()


def test_what_is_shown_is_bounded_and_what_needs_a_look_comes_first(site: Path) -> None:
    many = {f"n{i:03d}": {"box": [i, 0, i + 9, 9]} for i in range(60)} | {"last": REGIONS["whole"]}
    found = checked(site, many)
    lines = found.describe().splitlines()
    assert lines[0] == "61 regions of 61 pictures opened; 1 to look at:"
    assert lines[1].startswith("  row 61  last / 0  box")
    assert lines[-1] == "  ... 41 more"
    assert len(found.marks) <= 21
    config = RefineBatchConfig(manifest=write(site, many))
    plan = make_plan(config.manifest, str(site / "run"), access=config.access)
    open_sample(sample := Checked(plan, []), PlanReader(plan.uri), config, 7)
    assert (sample.plan.items, sample.opened) == (61, 7)
    assert {m.row for m in sample.marks} >= {1, 61}, "spread from the first to the last"
    said = "7 of 61 pictures were opened, spread evenly; --sample 0 opens all"
    assert sample.describe().endswith(said)
    assert check_manifest(config, open_files=True, sample=7).describe() == sample.describe()
    assert plan_only(config, sample=7).endswith(sample.describe()), "both open the same pictures"
    assert "were opened" not in check_manifest(config, open_files=True, sample=0).describe()


def test_the_sheet_shows_the_marked_pixels_over_the_picture(photo: np.ndarray) -> None:
    mask = np.zeros(photo.shape[:2], np.bool_)
    mask[100:140, 200:250] = True
    mask[400, 400] = True
    plain = np.asarray(tinted(photo, np.zeros_like(mask), 300), np.int16)
    marked = np.asarray(tinted(photo, mask, 300), np.int16)
    differs = np.abs(marked - plain).max(axis=2) > 8
    scale = plain.shape[0] / photo.shape[0]
    y, x = (round(v * scale) for v in (120, 225))
    assert differs[y, x]
    assert differs[
        round(400 * scale) - 1 : round(400 * scale) + 2, round(400 * scale) - 1 : round(400 * scale) + 2
    ].any()
    assert not differs[: round(95 * scale)].any()


def test_plan_only_opens_some_pictures_as_check_does(site: Path) -> None:
    said = plan_only(RefineBatchConfig(manifest=write(site, {**REGIONS, "gone": {"mask": "gone.png"}})))
    assert "6 images, 6 regions" in said
    assert "5 regions of 5 pictures opened; 2 to look at:" in said
    assert "1 of the pictures opened cannot be refined" in said


@pytest.mark.processes
def test_check_draws_its_sheet_from_the_command_line(site: Path) -> None:
    result = cli("check", write(site, REGIONS), "--sheet", str(site / "marks.png"), home=site)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "", "problems alone go to stdout"
    assert "masked / 0  mask       2,000 px    0.8%   seen at" in result.stderr
    with Image.open(site / "marks.png") as sheet:
        assert sheet.width > 4 * 300


@pytest.mark.processes
def test_a_run_in_which_everything_is_dead_says_where_its_report_is(site: Path) -> None:
    manifest = write(site, {"gone": {"mask": "gone.png"}, "bad": {"box": [3, 3, 1, 1]}})
    result = cli("run", manifest, "--out", str(site / "run"), home=site)
    assert result.returncode == 1
    assert "2 of 2 items of this start are dead" in result.stderr
    report = site / "run" / "report" / "report.html"
    assert result.stdout.splitlines()[-1] == f"report  {report}"
    assert "Traceback" not in result.stderr
    found = json.loads((site / "run" / "report" / "report.json").read_bytes())
    assert (found["runs"][0]["done"], found["runs"][0]["dead"]) == (0, 2)
