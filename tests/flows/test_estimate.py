"""`--plan-only`: counts what is left, and says what it would take with this model, these steps, these references."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli.estimate import Measured, ToDo, estimates, measured, plan_only
from refine_ops.config import FocusSettings, RefineBatchConfig, RefineSettings
from refine_ops.job.ledger import outcomes_table, write_part
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.run_folder import fingerprint_parts, open_run
from refine_ops.job.starts import open_start
from refine_ops.records import Alignment, Outcome, RegionOutcome
from tests.support.node import make_items

PLAIN = ToDo(items=100, done=0, regions=100, references=0)


def config(model: str = "refineanything-2511-lightning-8", **settings: object) -> RefineBatchConfig:
    return RefineBatchConfig.model_validate({"manifest": "m", "refine": {"model": {"model": model, **settings}}})


def seconds(todo: ToDo, given: RefineBatchConfig, known: Measured | None = None) -> float:
    return estimates(todo, given, known)[0].device_s


def test_references_steps_guidance_speed_and_pixels_change_the_estimate_as_they_were_measured() -> None:
    base = seconds(PLAIN, config())
    assert base == pytest.approx(100 * (8 * 0.569 + 0.361))
    half = ToDo(100, 0, 100, 50)
    assert seconds(half, config()) == pytest.approx(50 * (8 * 0.569 + 0.361) + 50 * (8 * 0.827 + 0.284 * 4 / 3 + 0.077))
    assert seconds(PLAIN, config(steps=16)) == pytest.approx(base + 100 * 8 * 0.569)
    assert seconds(PLAIN, config(true_cfg_scale=4.0)) == pytest.approx(base + 100 * 8 * 0.569)
    assert seconds(PLAIN, config(compile=False)) == pytest.approx(100 * (8 * 0.708 + 0.361)), "eager"
    smaller = config().model_dump() | {"refine": config().refine.model_dump() | {"focus": {"focus_pixels": 512 * 512}}}
    assert seconds(PLAIN, RefineBatchConfig.model_validate(smaller)) == pytest.approx(base / 4)
    assert seconds(PLAIN, config(), Measured(0.5, 7)) == 50.0


def test_the_configured_model_comes_first_and_a_hub_name_has_a_row_too() -> None:
    rows = estimates(PLAIN, config("somebody/their-model"))
    assert rows[0].model == "somebody/their-model"
    assert "tiny" in {row.model for row in rows}
    assert [row.model for row in estimates(PLAIN, config("tiny"))].count("tiny") == 1


def test_what_is_done_is_left_out_and_what_it_took_is_the_estimate(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 5)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[4]["regions"][0]["reference"] = "0000.png"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    given = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"))
    before = plan_only(given, price=3600.0)
    assert "5 regions to refine, 1 of them with a reference" in before
    assert not (tmp_path / "run").exists()
    folder = open_run(given.out, fingerprint_parts(given.refine, {}), given.model_dump(mode="json"))
    plan = PlanReader(make_plan(given.manifest, folder.uri, access=given.access).uri)
    region = RegionOutcome("r0", 1, (0, 0, 1, 1), (0, 0, 2, 2), 8, 8, 1, 8, 1.0, 1, "none", Alignment())
    made = [region, region, replace(region, made_by="transfer")]
    done = [
        Outcome(f"item-{i:04}", "f", "done", request=plan.item(i)[1], regions=(r,), timings_s={"refine": 2.0}, start=1)
        for i, r in enumerate(made)
    ]
    open_start(folder.uri, {"config": given.model_dump(mode="json")}).close("done")
    write_part(folder.outcomes, outcomes_table(done), "test")
    assert measured(given) == Measured(2.0, 3, 1)
    after = plan_only(given, price=3600.0)
    assert "as measured on 3 regions in this run folder, 1 of them by transfer" in after
    assert "3 images have an outcome in this run folder already; 2 are left" in after
    tiny = next(line for line in after.splitlines() if line.startswith("tiny"))
    assert tiny.split()[3:] == ["2.00", "s", "4", "s", "4.00", "on", "one", "device", "as", "before"]
    other = given.model_copy(update={"refine": config("tiny", steps=2).refine})
    assert measured(other) is None, "other steps take another time"


def test_what_a_transfer_takes_is_no_model_time(tmp_path: Path) -> None:
    rows = estimates(ToDo(items=3, done=0, regions=3, references=1), config("tiny"))
    transfer = next(row for row in rows if row.model == "transfer")
    assert (transfer.device, transfer.device_s < 1) == ("one CPU core", True)
    manifest = make_items(tmp_path / "images", 2)
    first = config("tiny").refine.model.model_copy(update={"first": "transfer"})
    given = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), refine=RefineSettings(model=first))
    assert "takes no model time (first: transfer)" in plan_only(given)


def test_tiles_count_as_work(tmp_path: Path) -> None:
    small = ToDo(items=3, done=0, regions=3, references=0)
    assert seconds(replace(small, tiles=4.0), config("tiny")) == 4 * seconds(small, config("tiny"))
    manifest = make_items(tmp_path / "images", 2)
    looks = FocusSettings(tile_zoom=4.0)
    given = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), refine=RefineSettings(focus=looks))
    assert "tiles each, where pictures were opened" in plan_only(given)
