"""S3 on a bad day, through a proxy that injects faults: what passes is waited for, what stays is reported."""

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from refine_ops import s3, storage
from refine_ops.config import RefineSettings
from refine_ops.errors import ItemError, JobError, Missing
from refine_ops.job import export, starts, upkeep
from refine_ops.job.run_folder import fingerprint_parts, open_run
from tests.support.nights import night
from tests.support.servers.s3_proxy import Fault, Kind, Proxy

pytestmark = pytest.mark.processes

DATA = bytes(range(256)) * 400


@pytest.fixture
def proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    monkeypatch.setattr(s3, "TIMEOUT_S", 2.0)
    s3._worked.clear()
    return proxy


READS: list[Kind] = ["500", "503", "slow-down", "timeout", "reset", "reset-mid-body", "short-read", "damaged-read"]
WRITES: list[Kind] = ["500", "503", "slow-down", "timeout", "reset", "damaged-write", "lost-answer"]


@pytest.mark.parametrize("kind", READS)
def test_reads_survive(proxy: Proxy, kind: Kind) -> None:
    storage.write("s3://lake/object", DATA)
    fault = Fault(kind, method="GET", path="/lake/object", times=2)
    proxy.faults.append(fault)
    assert storage.read("s3://lake/object") == DATA
    assert fault.struck == 2


@pytest.mark.parametrize("kind", WRITES)
def test_writes_survive_and_publish_once(proxy: Proxy, kind: Kind) -> None:
    fault = Fault(kind, method="PUT", path=f"/lake/new-{kind}", times=2)
    proxy.faults.append(fault)
    storage.write(f"s3://lake/new-{kind}", DATA, only_if_absent=True)
    assert fault.struck >= 1, "a lost answer is found out by the second try: the object is there, with equal bytes"
    assert storage.read(f"s3://lake/new-{kind}") == DATA


def test_a_store_that_stays_away_is_the_items_problem_when_reading_and_the_jobs_when_writing(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RETRY_BUDGET_S", 1.5)
    storage.write("s3://lake/object", DATA)
    proxy.faults.append(Fault("slow-down", times=10_000))
    started = time.monotonic()
    with pytest.raises(ItemError, match="SlowDown") as caught:
        storage.read("s3://lake/object")
    assert caught.value.reason == "file.unreadable"
    assert time.monotonic() - started < 4
    with pytest.raises(JobError, match="SlowDown"):
        storage.write("s3://lake/other", DATA)
    with pytest.raises(JobError, match="SlowDown"):
        list(storage.list_files("s3://lake/folder"))


def test_pauses_grow(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("s3://lake/object", DATA)
    proxy.faults.append(Fault("slow-down", method="GET", times=5))
    storage.read("s3://lake/object")
    times = [t for method, _, t in proxy.requests if method == "GET"]
    pauses = [b - a for a, b in pairwise(times)]
    assert len(pauses) == 5
    assert pauses[-1] > 3 * pauses[0], "a store that asks for less gets less"


@pytest.mark.parametrize("operation", ["read", "write", "identity", "exists", "list"])
def test_expired_credentials_pause_the_run_until_they_are_renewed(
    proxy: Proxy, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(credentials))

    def log_in(key_id: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = secret\n")

    log_in("OLDKEY")
    s3._client_of.clear()
    storage.write("s3://lake/object", DATA)
    expired = Fault("expired", times=10_000, key_id="OLDKEY")
    proxy.faults.append(expired)
    threading.Timer(1.0, log_in, ["NEWKEY"]).start()
    calls = {
        "read": lambda: storage.read("s3://lake/object") == DATA,
        "write": lambda: storage.write("s3://lake/object", DATA) is None,
        "identity": lambda: storage.identity("s3://lake/object").endswith(f":{len(DATA)}"),
        "exists": lambda: storage.exists("s3://lake/object"),
        "list": lambda: "s3://lake/object" in list(storage.list_files("s3://lake")),
    }
    assert calls[operation]()
    assert expired.struck >= 1
    s3._client_of.clear()


def test_credentials_that_stay_expired_stop_the_job(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CREDENTIALS_BUDGET_S", 0.5)
    storage.write("s3://lake/object", DATA)
    proxy.faults.append(Fault("expired", times=10_000))
    with pytest.raises(JobError, match=r"renew them and run the same command again"):
        storage.read("s3://lake/object")


def test_no_credentials_at_all_are_reported_at_once(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.fspath(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3._client_of.clear()
    started = time.monotonic()
    with pytest.raises(JobError, match="AWS_PROFILE"):
        storage.read("s3://lake/object")
    assert time.monotonic() - started < 5
    s3._client_of.clear()


def test_what_is_not_there(proxy: Proxy) -> None:
    with pytest.raises(Missing):
        storage.read("s3://lake/nothing")
    with pytest.raises(Missing):
        storage.identity("s3://lake/nothing")
    assert not storage.exists("s3://lake/nothing")
    with pytest.raises(ItemError, match="no such bucket"):
        storage.read("s3://puddle/object")
    with pytest.raises(JobError, match="NoSuchBucket"):
        storage.write("s3://puddle/object", DATA)
    with pytest.raises(JobError, match="NoSuchBucket"):
        list(storage.list_files("s3://puddle/folder"))
    storage.delete("s3://lake/nothing")


def test_other_bytes_are_never_published_over_what_is_there(proxy: Proxy) -> None:
    storage.write("s3://lake/once", DATA, only_if_absent=True)
    storage.write("s3://lake/once", DATA, only_if_absent=True)
    with pytest.raises(ItemError, match="other bytes"):
        storage.write("s3://lake/once", DATA[::-1], only_if_absent=True)
    assert storage.read("s3://lake/once") == DATA


def test_a_store_without_conditional_writes_is_found_out_and_said_loudly(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    assert storage.probe_writable("s3://lake/honours")
    proxy.faults.append(Fault("unconditional", method="PUT", times=10_000))
    folder = open_run("s3://lake/ignores", fingerprint_parts(RefineSettings(), {}), {})
    assert "ignores conditional writes" in caplog.text
    assert json.loads(storage.read(f"{folder.uri}/run.json"))["conditional_writes"] is False


def test_a_large_object_is_refused_before_its_body_is_read(proxy: Proxy) -> None:
    storage.write("s3://lake/large", DATA)
    with pytest.raises(ItemError, match="max_bytes"):
        storage.read("s3://lake/large", max_bytes=1000)
    assert storage.read("s3://lake/large", max_bytes=len(DATA)) == DATA


def test_listing_goes_on_over_pages_and_faults(proxy: Proxy) -> None:
    for i in range(1005):
        s3_backends[DEFAULT_ACCOUNT_ID]["global"].put_object("lake", f"many/{i:05}", b"x")
    proxy.faults.append(Fault("500", method="GET", path="continuation-token", times=1))
    found = list(storage.list_files("s3://lake/many"))
    assert len(found) == 1005
    assert found == sorted(found)


def test_nights_in_a_bucket_are_locked_published_exported_and_pruned(proxy: Proxy) -> None:
    night("s3://lake/run", {"a": "a1", "b": "b1"})
    folder = night("s3://lake/run", {"a": "a2"})
    held = starts.open_start(folder.uri, {})
    with pytest.raises(starts.RunInUse):
        starts.open_start(folder.uri, {})
    held.close("done")
    found = export.export(folder.uri, "s3://lake/shop", max_removed=1.0)
    assert list(found.copied) == ["deep/a.png"]
    assert storage.read("s3://lake/shop/deep/a.png") == b"a2"
    night(folder.uri, {"b": "b1"})
    assert export.export(folder.uri, "s3://lake/shop", max_removed=1.0).removed == ("deep/a.png",)
    assert not storage.exists("s3://lake/shop/deep/a.png")
    assert upkeep.prune(folder, snapshots=1, dry_run=False).uris == (), "everything is young"
    pruned = upkeep.prune(folder, snapshots=1, dry_run=False, now=lambda: time.time() + 30 * 86_400)
    assert sorted(uri.removeprefix(folder.uri) for uri in pruned.uris) == [
        "/outputs/00000001/deep/a.png",
        "/patches/00000001/deep/a.png.r0.png",
    ]
    assert sorted(storage.list_files(f"{folder.uri}/outputs")) == [
        f"{folder.uri}/outputs/00000001/deep/b.png",
        f"{folder.uri}/outputs/00000002/deep/a.png",
    ]
