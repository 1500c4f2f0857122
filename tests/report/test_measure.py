"""Whole runs and pairs of folders through the pool, into the machine files."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.proof.allowed import Rules
from refine_ops.report.build import build_report
from refine_ops.report.config import Cost, DriftReportConfig, FolderPair, MeasureSettings, TrendSettings
from refine_ops.report.folders import folder_items
from refine_ops.report.items import item_of, read_items, read_pictures
from refine_ops.report.measure import many
from refine_ops.report.measure.from_models import FILE, with_modelled, write_modelled
from refine_ops.report.measure.item import compare
from refine_ops.report.measure.many import compare_all
from refine_ops.report.run_items import ReportedItem, open_run
from tests.support.made_runs import MadeRun, photo_edit, png

ONE = MeasureSettings(processes=1)


def test_a_run_is_measured_and_its_worst_comes_first(small_run: str, tmp_path: Path) -> None:
    built = build_report(
        DriftReportConfig(runs=(small_run,), out=str(tmp_path), measure=ONE, cost=Cost(gpu_hour=3.6, currency="EUR"))
    )
    assert [w["id"] for w in built.summary["worst"]] == ["stray", "broken", "untouched"]
    assert built.summary["verdict"]["state"] == "violated"
    assert built.summary["counts"] == {"strict.pixels": 1, "dead": 1, "effect.none": 1}
    run = built.summary["runs"][0]
    assert (run["items"], run["done"], run["dead"], run["retries"]) == (12, 11, 1, 1)
    assert run["dead_by_reason"] == {"image.truncated": 1}
    assert run["items_per_s"] == pytest.approx(1.0)
    assert run["cost_per_1000"] == pytest.approx(1000 * 0.5 / 3600 * 3.6)
    rows = read_items(str(tmp_path)).to_pylist()
    assert [r["item_id"] for r in rows][:3] == ["stray", "broken", "untouched"]
    assert rows[0]["changed_outside_px"] == 1
    assert rows[1]["changed_outside_px"] is None
    assert item_of(rows[0]).findings[0].code == "strict.pixels"
    pictures = read_pictures(str(tmp_path), rows[0]["page"])[(small_run, "stray")]
    assert pictures["windows"][0]["title"] == "changed outside, 1:1"
    assert pictures["thumb"][:4] == b"RIFF"
    metrics = {m["name"]: m for m in built.summary["metrics"]}
    assert metrics["raw_lpips"]["measured"] == 0
    assert metrics["raw_lpips"]["median"] is None


def test_few_cases_start_no_processes(small_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_pool", None)
    items = list(open_run(small_run).items())
    assert len(many.measure_items(items, len(items), str(tmp_path), MeasureSettings())) == len(items) > 1


@pytest.mark.processes
def test_processes_give_what_one_process_gives(small_run: str) -> None:
    work = [(item, True) for item in open_run(small_run).items()]
    assert list(compare_all(work, ONE)) == list(compare_all(work, MeasureSettings(processes=2)))


def test_numbers_computed_elsewhere_are_joined_and_only_there(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("a", photo_edit(1))
    run.add("b", photo_edit(2))
    run.add("c", photo_edit(3))
    uri = run.write()
    rows = [{"item_id": "a", "region_id": "r0", "region_lpips": 0.25, "text_gain": None, "output_sha256": None}]
    rows += [{"item_id": "c", "region_id": "r0", "region_lpips": 0.5, "output_sha256": "of an earlier output"}]
    file = str(tmp_path / "run" / FILE)
    pq.write_table(pa.Table.from_pylist(rows), file)
    items = list(with_modelled(open_run(uri).items(), file))
    found = {c.item_id: compare(c, ONE, False).measure.metrics for c in items}
    assert found["a"]["region_lpips"] == 0.25
    assert "text_gain" not in found["a"]
    assert "region_lpips" not in found["b"]
    assert "region_lpips" not in found["c"], "the item was redone since"
    write_modelled(file, [{"item_id": "b", "region_id": "r0", "raw_lpips": 0.125}])
    again = {c.item_id: c.extra for c in with_modelled(open_run(uri).items(), file)}
    assert again == {"a": {"r0": {"region_lpips": 0.25}}, "b": {"r0": {"raw_lpips": 0.125}}, "c": {}}


def test_a_replaced_output_and_a_missing_one_are_found(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    for name in ("kept", "replaced", "deleted"):
        run.add(name, photo_edit(1))
    uri = run.write()
    (tmp_path / "run/outputs/00000001/00001.png").write_bytes(png(photo_edit(1).before, icc=True))
    (tmp_path / "run/outputs/00000001/00002.png").unlink()
    found = {c.item_id: [f.code for f in compare(c, ONE, False).measure.findings] for c in open_run(uri).items()}
    assert found == {"kept": [], "replaced": ["strict.bytes", "effect.none"], "deleted": ["strict.unreadable"]}


class _Poison(str):
    """A path that aborts the process it is handed to, once it has left `<path>.sign`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _abort, (f"{self}.sign",)


def _abort(sign: str) -> None:
    Path(sign).touch()
    os.abort()


@pytest.mark.processes
def test_a_file_that_kills_its_process_costs_its_own_item_only(tmp_path: Path) -> None:
    """It kills a process of the pool, and then, alone, another one."""
    good = str(tmp_path / "good.png")
    storage.write(good, png(photo_edit(1).before))
    names = [*(f"good-{i}" for i in range(5)), "poison", *(f"late-{i}" for i in range(12))]
    items = [ReportedItem("run", n, _Poison(good) if n == "poison" else good, good, Rules()) for n in names]
    results = list(compare_all([(c, False) for c in items], MeasureSettings(processes=2)))
    assert [r.measure.item_id for r in results] == names
    (found,) = (r.measure for r in results if r.measure.findings)
    assert (found.item_id, found.findings[0].code) == ("poison", "strict.unreadable")
    assert "killed the process" in found.findings[0].text


@pytest.mark.processes
def test_no_item_is_lost_when_the_pool_breaks_while_more_are_handed_out(tmp_path: Path) -> None:
    good = str(tmp_path / "good.png")
    storage.write(good, png(photo_edit(1).before))

    def work() -> Iterator[tuple[ReportedItem, bool]]:
        yield ReportedItem("run", "poison", _Poison(good), good, Rules()), False
        while not Path(f"{good}.sign").exists():
            time.sleep(0.01)
        time.sleep(1.0)  # until the pool has noticed
        for i in range(3):
            yield ReportedItem("run", f"late-{i}", good, good, Rules()), False

    results = compare_all(work(), MeasureSettings(processes=2))
    assert [r.measure.item_id for r in results] == ["poison", "late-0", "late-1", "late-2"]


def test_a_kept_raw_patch_is_measured_again(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("a", photo_edit(3).with_raw(shift_px=2.0))
    (item,) = open_run(run.write()).items()
    compared = compare(item, ONE, False)
    assert compared.measure.metrics["raw_shift_px"] == pytest.approx(2.0, abs=0.1)
    assert compared.windows[0].raw[:4] == b"RIFF"


def test_two_folders_need_no_run(tmp_path: Path) -> None:
    rows = []
    for i in range(4):
        edit = photo_edit(i)
        storage.write(str(tmp_path / f"before/a/{i}.png"), png(edit.before))
        moved = edit.with_raw(shift_px=2.0) if i == 3 else None
        after = edit.after if moved is None else np.roll(edit.after, 2, axis=1)
        storage.write(str(tmp_path / f"after/a/{i}.png"), png(after))
        rows.append({"image": f"a/{i}.png", "box": list(edit.tight)})
    storage.write(str(tmp_path / "before/a/lonely.png"), png(photo_edit(9).before))
    storage.write(str(tmp_path / "regions.jsonl"), "\n".join(map(json.dumps, rows)).encode())
    pair = FolderPair(
        before=str(tmp_path / "before"), after=str(tmp_path / "after"), regions=str(tmp_path / "regions.jsonl")
    )
    built = build_report(DriftReportConfig(folders=pair, out=str(tmp_path / "report"), measure=ONE))
    found = {r["item_id"]: [f["code"] for f in r["findings"]] for r in read_items(built.folder).to_pylist()}
    assert found["a/lonely"] == ["dead"]
    assert found["a/0"] == found["a/1"] == found["a/2"] == []
    assert {"strict.pixels", "drift.shift"} <= set(found["a/3"])
    shift = next(r for r in read_items(built.folder).to_pylist() if r["item_id"] == "a/3")["raw_shift_px"]
    assert shift == pytest.approx(2.0, abs=0.1)


def test_a_folder_of_masks_gives_the_regions(tmp_path: Path) -> None:
    edit = photo_edit(5)
    storage.write(str(tmp_path / "before/x.png"), png(edit.before))
    storage.write(str(tmp_path / "after/x.png"), png(edit.after))
    mask = np.repeat(edit.mask[..., None] * np.uint8(255), 3, axis=2)
    storage.write(str(tmp_path / "masks/x.png"), png(mask))
    pair = FolderPair(before=str(tmp_path / "before"), after=str(tmp_path / "after"), regions=str(tmp_path / "masks"))
    (item,) = folder_items(pair)
    assert compare(item, ONE, False).measure.findings == ()
    (unmarked,) = folder_items(pair.model_copy(update={"regions": None}))
    assert [f.code for f in compare(unmarked, ONE, False).measure.findings] == ["strict.pixels"]


def test_a_label_image_beside_two_folders_is_read_as_told(tmp_path: Path) -> None:
    edit = photo_edit(5)
    storage.write(str(tmp_path / "before/x.png"), png(edit.before))
    storage.write(str(tmp_path / "after/x.png"), png(edit.after))
    labels = edit.mask * np.uint8(7)
    labels[:5] = np.where(edit.mask[:5], labels[:5], 3)
    storage.write(str(tmp_path / "labels.png"), png(labels))
    row = {"image": "x.png", "mask": "labels.png", "mask_class": 7}
    storage.write(str(tmp_path / "regions.jsonl"), json.dumps(row).encode())
    pair = FolderPair(
        before=str(tmp_path / "before"), after=str(tmp_path / "after"), regions=str(tmp_path / "regions.jsonl")
    )
    (item,) = folder_items(pair)
    assert compare(item, ONE, False).measure.findings == ()
    storage.write(str(tmp_path / "regions.jsonl"), json.dumps({**row, "mask_class": "a tree"}).encode())
    with pytest.raises(JobError, match=r"line 1.*mask_class"):
        list(folder_items(pair))


def test_what_cannot_be_reported_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="not a run folder"):
        build_report(DriftReportConfig(runs=(str(tmp_path / "nowhere"),)))
    (tmp_path / "before").mkdir()
    with pytest.raises(JobError, match=r"no \.jpg"):
        build_report(
            DriftReportConfig(
                folders=FolderPair(before=str(tmp_path / "before"), after=str(tmp_path)), out=str(tmp_path)
            )
        )
    (tmp_path / "before" / "x.png").write_bytes(b"")
    (tmp_path / "regions.jsonl").write_text('{"image": "x.png"}')
    pair = FolderPair(before=str(tmp_path / "before"), after=str(tmp_path), regions=str(tmp_path / "regions.jsonl"))
    with pytest.raises(JobError, match=r"regions.jsonl, line 1"):
        list(folder_items(pair))
    for wrong in ({}, {"runs": ("a",), "source": "b"}, {"folders": pair}):
        with pytest.raises(ValueError, match=r"exactly one|need `out`"):
            DriftReportConfig.model_validate(wrong)


@pytest.mark.long
def test_the_trend_grows_by_one_run_a_night_and_alarms_on_the_odd_one(tmp_path: Path) -> None:
    trend = TrendSettings(folder=str(tmp_path / "trend"), min_runs=4)
    for night in range(6):
        run = MadeRun(tmp_path / f"run-{night}", start=1.79e9 + 86_400 * night)
        for i in range(5):
            run.add(f"i{i}", photo_edit(i), de00_before=1.0 + 0.02 * ((i + night) % 3) + (1.5 if night == 5 else 0.0))
        built = build_report(DriftReportConfig(runs=(run.write(),), measure=ONE, trend=trend))
        cards = {c["name"]: c for c in built.summary["headline"]}
        assert len(cards["raw_de00"]["trend"]) == night + 1
        assert bool(built.alarms) == (night == 5)
    assert {a.metric for a in built.alarms} == {"raw_de00"}
    assert built.alarms[0].slice in {"all", "preset=tiny", "adapter=refine-1", "category=none"}
    assert built.summary["verdict"]["state"] == "attention"


@pytest.mark.long
def test_a_run_folder_that_goes_on_every_night_has_a_trend_and_reports_of_last_night(tmp_path: Path) -> None:
    trend = TrendSettings(folder=str(tmp_path / "trend"), min_runs=4, min_items=4)
    run = MadeRun(tmp_path / "run")
    for night in range(6):
        for i in range(4):
            run.add(f"{night}-{i}", photo_edit(i), de00_before=1.0 + 0.02 * ((i + night) % 3) + 1.5 * (night == 5))
        config = DriftReportConfig(runs=(run.write(),), nights=1, measure=ONE, trend=trend)
        built = build_report(config)
        assert {r["item_id"] for r in read_items(built.folder).to_pylist()} == {f"{night}-{i}" for i in range(4)}
        cards = {c["name"]: c for c in built.summary["headline"]}
        assert len(cards["raw_de00"]["trend"]) == night + 1
        assert bool(built.alarms) == (night == 5)
        run.next_night()
    whole = build_report(config.model_copy(update={"nights": None, "out": str(tmp_path / "whole")}))
    assert whole.summary["items"] == 24
    assert len(whole.summary["headline"][2]["trend"]) == 6, "the same nights again, and no others"
    assert whole.summary["runs"][0]["items_per_s"] == pytest.approx(1.0), "without the days between the nights"


@pytest.mark.processes
def test_a_run_in_s3_is_reported_there(small_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        boto3.client("s3").create_bucket(Bucket="lake")
        for path in filter(Path.is_file, Path(small_run).rglob("*")):
            storage.write(f"s3://lake/run/{path.relative_to(small_run)}", path.read_bytes())
        built = build_report(DriftReportConfig(runs=("s3://lake/run",), measure=ONE))
        assert built.page == "s3://lake/run/report/report.html"
        assert b"stray" in storage.read(built.page)
        assert [w["id"] for w in built.summary["worst"]] == ["stray", "broken", "untouched"]
    finally:
        server.stop()
