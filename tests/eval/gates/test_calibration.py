"""A calibration from end to end: cases rendered, the model run, results judged, a gate refused for want of cases."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import JobError
from refine_ops.eval.cases.case_set import load_cases
from refine_ops.eval.cases.rendered import write_rendered
from refine_ops.eval.gates.config import CalibrateConfig
from refine_ops.eval.gates.planted import HARMS, plant
from refine_ops.eval.gates.run import run_calibration
from tests.support.trunk_weights import write_trunk


def test_rendered_cases_are_the_same_every_time_and_half_of_them_have_a_reference(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_rendered(str(tmp_path / name), 4, seed=3)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in files)
    rows = [json.loads(line) for line in (tmp_path / "one" / "annotations.jsonl").read_text().splitlines()]
    assert [row["setting"] for row in rows] == ["reference", "free"] * 2
    write_rendered(str(tmp_path / "all"), 2, seed=3, referenced=True)
    every = [json.loads(line) for line in (tmp_path / "all" / "annotations.jsonl").read_text().splitlines()]
    assert every == [row | {"format": new["format"]} for row, new in zip(rows[::2], every, strict=True)]


@pytest.mark.parametrize("kind", HARMS)
def test_a_harm_stays_inside_the_blends_reach(kind: str) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (80, 90, 3), np.uint8)
    mask = np.zeros((80, 90), np.bool_)
    mask[30:50, 30:60] = True
    worse = plant(kind, image, mask, rng.integers(0, 256, (40, 40, 3), np.uint8), rng)
    far = np.ones_like(mask)
    far[22:58, 22:68] = False
    assert (worse[far] == image[far]).all()
    assert (worse[mask] != image[mask]).any()


@pytest.mark.long
def test_few_cases_make_no_gate_and_a_second_start_judges_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "trunks").mkdir()
    write_trunk("alexnet", tmp_path / "trunks")
    out, weights = str(tmp_path / "out"), str(tmp_path / "trunks")
    config = CalibrateConfig(out=out, rendered=5, per_case=1, lessons=1, weights=weights)
    with suppress(JobError):  # five results may be all alike: refused before a card is written
        made = run_calibration(config)
        assert made.gate is None
        assert "missing" in made.missing
        assert "No gate" in (tmp_path / "out" / "card.md").read_text()
    assert not (tmp_path / "out" / "gate.json").exists()
    judged = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "judged").rglob("*.json")}
    assert judged
    rows = json.loads(next(iter(judged)).read_text())
    assert {row["kind"] for row in rows} >= {"", "truth pasted"}
    assert all(np.isfinite(row["gain_db"]) for row in rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refine_ops.eval.gates.collect.open_refiner", lambda *_: pytest.fail("the model was opened"))
        with suppress(JobError):
            run_calibration(config)
    assert judged == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "judged").rglob("*.json")}


@pytest.mark.long
def test_every_case_that_transfer_is_calibrated_on_has_a_reference(tmp_path: Path) -> None:
    transfer = RefineSettings(model=ModelSettings(model="transfer"))
    config = CalibrateConfig(out=str(tmp_path), rendered=3, per_case=1, lessons=0, refine=transfer)
    with suppress(JobError):  # three results may be all alike
        run_calibration(config)
    inputs = load_cases(str(tmp_path / "cases")).inputs
    assert inputs
    assert {item.setting for item in inputs} == {"reference"}
    results = [json.loads(path.read_text()) for path in (tmp_path / "judged").rglob("*.json")]
    assert any(results), "one of the references fits"


def test_a_calibration_without_cases_or_reviews_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nothing to calibrate on"):
        run_calibration(CalibrateConfig(out=str(tmp_path), cases=None, refine=RefineSettings(model=ModelSettings())))
