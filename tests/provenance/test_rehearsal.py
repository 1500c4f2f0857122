"""Whether a run can sign is found out before its first item, by signing."""

import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from flows.cli.check import check_manifest
from flows.cli.main import app
from flows.steps.batch import run_batch
from refine_ops.config import ProvenanceSettings, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor import doctor
from refine_ops.provenance.rehearsal import check_signer, rehearse
from refine_ops.provenance.sign import open_signer
from tests.provenance.test_sign import PLAIN, reading, refined
from tests.support.certificates import Identity, make_identity
from tests.support.servers.time_stamps import stamping

SIGN = ProvenanceSettings(mark="c2pa")


def named(monkeypatch: pytest.MonkeyPatch, identity: Identity) -> None:
    monkeypatch.setenv("REFINE_C2PA_CERTIFICATE", str(identity.chain))
    monkeypatch.setenv("REFINE_C2PA_KEY", str(identity.key))
    open_signer.cache_clear()


def test_who_signs_is_said_and_only_asked_for_where_something_is_signed(
    signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in (SIGN, ProvenanceSettings(existing="resign")):
        assert str(check_signer(settings)).startswith("ES256, CN=Test Signer,O=Tests, until 20")
    monkeypatch.delenv("REFINE_C2PA_KEY")
    open_signer.cache_clear()
    for settings in (ProvenanceSettings(), ProvenanceSettings(existing="refuse", mark="iptc")):
        assert check_signer(settings) is None


def test_a_certificate_that_c2pa_does_not_let_sign_is_found_by_signing(
    tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_identity(tmp_path / "server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    named(monkeypatch, server)
    open_signer()  # certificate and key are read, and fit each other
    with pytest.raises(JobError, match=r"make no valid Content Credentials .*REFINE_C2PA_CERTIFICATE"):
        rehearse()


def test_a_time_stamp_server_that_does_not_answer_is_said_at_the_start(
    signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINE_C2PA_TIME_STAMP", "http://127.0.0.1:9/")
    open_signer.cache_clear()
    with pytest.raises(JobError, match="REFINE_C2PA_TIME_STAMP"):
        rehearse()


@pytest.mark.processes
def test_a_time_stamp_server_that_is_named_dates_what_is_signed(
    tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_identity(tmp_path / "tsa", name="Test Clock", usage=ExtendedKeyUsageOID.TIME_STAMPING)
    with stamping(authority, tmp_path) as url:
        monkeypatch.setenv("REFINE_C2PA_TIME_STAMP", url)
        open_signer.cache_clear()
        assert f"time stamps of {url}" in rehearse()
        done = refined(PLAIN["jpeg"](), RefineSettings(provenance=SIGN))
    assert done.verification.signed
    found = reading(done.data)
    signature = found["manifests"][found["active_manifest"]]["signature_info"]
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(signature["time"])
    assert abs(age.total_seconds()) < 300


@pytest.mark.parametrize("start", [run_batch, lambda config: check_manifest(config, open_files=True)])
def test_an_expired_certificate_stops_a_run_before_it_has_a_folder(
    start: object, tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, make_identity(tmp_path / "old", expired=True))
    (tmp_path / "items.jsonl").write_text(json.dumps({"image": "no.png", "regions": [{"box": [0, 0, 9, 9]}]}))
    config = RefineBatchConfig(
        manifest=str(tmp_path / "items.jsonl"),
        out=str(tmp_path / "run"),
        refine=RefineSettings(provenance=SIGN, publish="all"),
    )
    with pytest.raises(JobError, match=r"expired on 20\d\d-\d\d-\d\d"):
        start(config)  # type: ignore[operator]
    assert not (tmp_path / "run").exists()


def test_the_doctor_says_who_signs_and_what_is_wrong(
    tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda *_: doctor.Diagnosis(()))  # its own findings have their own tests
    assert "ok   signing: ES256, CN=Test Signer" in CliRunner().invoke(app, ["doctor"]).output
    named(monkeypatch, make_identity(tmp_path / "old", expired=True))
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 1
    assert "OFF  signing" in told.output
    assert "expired on" in told.output
    for name in ("CERTIFICATE", "KEY"):
        monkeypatch.delenv(f"REFINE_C2PA_{name}")
    assert "signing" not in CliRunner().invoke(app, ["doctor"]).output
