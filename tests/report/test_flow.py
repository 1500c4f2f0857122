"""The flow against a real (ephemeral) Prefect API: state, artifact and events."""

from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from flows.drift_report import drift_report, review_apply
from flows.steps.drift import EVENT_ALARM, EVENT_VIOLATION, DriftFound, report_drift
from flows.steps.report_due import due_report
from flows.steps.summary import RunSummary
from refine_ops.config import RefineBatchConfig
from refine_ops.job.starts import open_start
from refine_ops.report.build import build_report
from refine_ops.report.config import DriftReportConfig, MeasureSettings, TrendSettings
from refine_ops.report.page.markdown import markdown_summary
from refine_ops.report.review import read_marks
from refine_ops.report.run_items import open_run
from tests.support.made_runs import MadeRun, photo_edit

ONE = MeasureSettings(processes=1)


@pytest.mark.processes
def test_the_flow_writes_reports_events_and_fails_as_told(
    small_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: None
) -> None:
    trend = TrendSettings(folder=str(tmp_path / "trend"), min_runs=4, min_items=2)
    for night in range(5):
        run = MadeRun(tmp_path / f"run-{night}")
        run.add("a", photo_edit(1), de00_before=1.0 + 0.01 * night)
        run.add("b", photo_edit(2), de00_before=1.0 + 0.01 * night)
        build_report(DriftReportConfig(runs=(run.write(),), measure=ONE, trend=trend))
    odd = MadeRun(tmp_path / "run-odd")
    odd.add("a", photo_edit(1), de00_before=2.8)
    odd.add("b", photo_edit(2), de00_before=2.8)
    odd_uri = odd.write()
    AssertingEventsClient.reset()
    worker = EventsWorker.instance(AssertingEventsClient)
    monkeypatch.setattr(EventsWorker, "instance", lambda *_: worker)
    quiet = drift_report(DriftReportConfig(runs=(odd_uri,), measure=ONE, trend=trend, out=str(tmp_path / "odd")))
    assert Path(quiet).exists()
    with pytest.raises(DriftFound, match="alarm"):
        drift_report(
            DriftReportConfig(runs=(odd_uri,), measure=ONE, trend=trend, out=str(tmp_path / "r"), fail_on="alarm")
        )
    with pytest.raises(DriftFound, match="breaks the promise"):
        drift_report(DriftReportConfig(runs=(small_run,), measure=ONE, out=str(tmp_path / "bad")))
    assert (tmp_path / "bad" / "report.html").exists()
    artifact = Artifact.get("drift-report")
    assert artifact is not None
    assert "1 of 12 pictures breaks the promise" in str(artifact.data)
    worker.drain()
    sent = [e for client in AssertingEventsClient.all for e in client.events]
    assert {e.event for e in sent} >= {EVENT_ALARM, EVENT_VIOLATION}
    alarm = next(e for e in sent if e.event == EVENT_ALARM)
    assert alarm.payload["metric"] == "raw_de00"


def test_a_report_is_due_of_the_folder_of_last_night_or_not_at_all(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run")
    for i in range(4):
        made.add(f"{i}", photo_edit(i))
    folder = open_run(made.write()).folder
    build_report(DriftReportConfig(runs=(folder.uri,), measure=ONE))

    def due(limit: int, done: int, now: int) -> DriftReportConfig | None:
        config = RefineBatchConfig(manifest="m.jsonl", out=folder.uri, report_items=limit)
        summary = RunSummary(folder.uri, done, 0, now, 0, 1.0, 0, {}, "", "")
        return due_report(config, folder, summary, refined=now > 0)

    whole, night = (DriftReportConfig(runs=(folder.uri,), nights=n) for n in (None, 1))
    assert due(limit=8, done=8, now=4) == whole
    assert due(limit=8, done=4, now=0) is None, "reported already"
    assert due(limit=8, done=3, now=0) == whole, "the manifest holds less now"
    assert due(limit=8, done=9, now=4) == night
    assert due(limit=8, done=9, now=0) is None
    assert due(limit=8, done=20, now=9) is None
    assert due(limit=0, done=4, now=4) is None

    made.add("stray", photo_edit(4).with_stray_pixel())
    build_report(DriftReportConfig(runs=(made.write(),), measure=ONE))
    assert due(limit=8, done=5, now=0) == whole, "a broken promise is told every time"
    assert due(limit=4, done=5, now=0) == night


def test_a_nightly_report_is_not_green_where_the_last_night_published_nothing(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run")
    made.add("a", photo_edit(1))
    run = made.write()
    nightly = DriftReportConfig(runs=(run,), nights=1, measure=ONE, fail_on="alarm")
    report_drift(nightly)
    for ended in ("failed", "canary", "taken-over"):
        open_start(run, {"parts": {}}).close(ended)
        with pytest.raises(DriftFound, match=rf"start \d of .* ended as '{ended}' and published nothing.*starts {run}"):
            report_drift(nightly)
    open_start(run, {"parts": {}}).close("done")
    open_start(run, {"command": "verify"}).close("failed")
    report_drift(nightly)


def test_the_summary_shows_pictures_and_takes_no_markup_from_names(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("[x](javascript:alert(1)) <img src=x onerror=1> |", photo_edit(1).untouched())
    built = build_report(DriftReportConfig(runs=(run.write(),), measure=ONE))
    text = markdown_summary(built.folder, built.page, built.summary)
    assert text.count("data:image/webp;base64,") == 2
    assert "<img" not in text
    assert r"\[x\]\(javascript\:alert\(1\)\)" in text
    assert f"(<{Path(built.page).as_uri()}>)" in text


def test_review_apply_takes_the_exported_file(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run")
    made.add("a", photo_edit(1))
    uri = made.write()
    entry = f'{{"run": "{uri}", "item_id": "a", "fingerprint": "f-a", "decision": "reject", "note": "no", "at": ""}}'
    (tmp_path / "d.json").write_text(f'{{"schema": "refine-ops/decisions/1", "report": "k", "decisions": [{entry}]}}')
    review_apply(str(tmp_path / "d.json"), uri, "exclude")
    assert read_marks(uri)["a"].action == "exclude"
