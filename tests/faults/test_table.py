"""Disks, stores and memory fail under the real launcher and worker; each fault has a stated outcome.

The oracle for every output is the chain itself, `refine_image`, run here without a worker. `lost` counts planned items
without an outcome, `duplicated` outputs published twice with different bytes.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from refine_ops import s3, storage
from refine_ops.config import RefineBatchConfig, WorkerSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.job.ledger import read_ledger
from tests.support.node import make_items, run_node
from tests.support.servers.s3_proxy import Fault, Kind, Proxy
from tests.support.settle import AddRow, settle

pytestmark = pytest.mark.processes

COUNT = 32
SHORT_PAUSE_S = 0.1
WORKER = WorkerSettings(flush_items=4, flush_s=0.5, read_threads=2, write_threads=2, grace_s=5.0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "published.log"
    log.touch()
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", os.fspath(log))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return log


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_items(tmp_path / "images", COUNT)


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- the disk


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", os.fspath(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", os.fspath(folder)], check=True)


def test_disk_full(table: AddRow, tmp_path: Path, images: Path, published: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 2):
        config = RefineBatchConfig(manifest=str(images), out=str(disk / "run"), worker=WORKER)
        filler = disk / "filler"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(b"x" * (free - 150_000))
        with pytest.raises(JobError, match=r"No space left on device; free some space.*run the same command again"):
            run_node(config)
        filler.unlink()
        run_node(config)
        settle(table, config, published, "disk full", "stops, names the remedy; the next start goes on", {})


def test_read_only_disk(table: AddRow, tmp_path: Path, images: Path, published: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 4):
        config = RefineBatchConfig(manifest=str(images), out=str(disk / "run"), worker=WORKER)
        subprocess.run(["mount", "-o", "remount,ro", os.fspath(disk)], check=True)
        with pytest.raises(JobError, match="read-only; choose another folder"):
            run_node(config)
        subprocess.run(["mount", "-o", "remount,rw", os.fspath(disk)], check=True)
        run_node(config)
        settle(table, config, published, "read-only disk", "stops before anything is run; then as usual", {})


def test_permission_denied(table: AddRow, tmp_path: Path, images: Path, published: Path) -> None:
    """Root may write anywhere but where the file system itself says no."""
    parent = tmp_path / "locked"
    parent.mkdir()
    lock, unlock = (["chattr", "+i"], ["chattr", "-i"]) if os.geteuid() == 0 else (["chmod", "555"], ["chmod", "755"])
    if subprocess.run([*lock, os.fspath(parent)], capture_output=True).returncode:
        pytest.skip("this file system cannot lock a folder")
    config = RefineBatchConfig(manifest=str(images), out=str(parent / "run"), worker=WORKER)
    try:
        with pytest.raises(JobError, match=r"cannot write .*(not permitted|denied)"):
            run_node(config)
    finally:
        subprocess.run([*unlock, os.fspath(parent)], check=True)
    run_node(config)
    settle(table, config, published, "permission denied", "stops before anything is run; then as usual", {})


# -- the run folder


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 3] ^= 0x10  # inside a page, where Parquet's structure does not notice
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "one bit flipped"])
def test_damaged_ledger_part(how: str, table: AddRow, tmp_path: Path, images: Path, published: Path) -> None:
    config = RefineBatchConfig(manifest=str(images), out=str(tmp_path / "run"), worker=WORKER)
    run_node(config)
    part = sorted((tmp_path / "run" / "outcomes").iterdir())[1]
    damage(part, how)
    assert read_ledger(str(tmp_path / "run" / "outcomes")).num_rows < COUNT
    run_node(config)
    settle(table, config, published, f"outcome part {how}", "its items are redone, with the same bytes", {})


def test_half_written_plan(table: AddRow, tmp_path: Path, images: Path, published: Path) -> None:
    config = RefineBatchConfig(manifest=str(images), out=str(tmp_path / "run"), worker=WORKER)
    (tmp_path / "run").mkdir()
    run_node(config.model_copy(update={"limit": 4}))
    damage(tmp_path / "run" / "plan.parquet", "truncated")
    (tmp_path / "run" / ".tmp-0123").write_bytes(b"half a plan")
    run_node(config)
    settle(table, config, published, "half-written plan", "made anew from the manifest", {})


# -- memory and processes (a segfault and a hung call are in test_poison)


@pytest.mark.slow  # five launches
def test_memory(table: AddRow, tmp_path: Path, published: Path) -> None:
    manifest = make_items(tmp_path / "images", COUNT, {7: "memory", 19: "oom"})
    config = RefineBatchConfig(manifest=str(manifest), out=str(tmp_path / "run"), worker=WORKER)
    run_node(config)
    dead = {"item-0007": "model.failed", "item-0019": "worker.killed"}
    settle(table, config, published, "out of memory, twice", "the item is dead, its company is not", dead)


# -- the store


def in_s3(images: Path, prefix: str) -> RefineBatchConfig:
    for path in images.parent.iterdir():
        storage.write(f"s3://lake/{prefix}/in/{path.name}", path.read_bytes())
    manifest = f"s3://lake/{prefix}/in/{images.name}"
    return RefineBatchConfig(manifest=manifest, out=f"s3://lake/{prefix}/run", worker=WORKER)


def test_a_store_with_a_bad_day(
    table: AddRow, images: Path, published: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than half of all requests fail. Pauses, which `test_s3` looks at, are kept short here."""
    config = in_s3(images, "bad-day")
    monkeypatch.setattr(s3, "_LONGEST_PAUSE_S", SHORT_PAUSE_S)
    monkeypatch.setenv("REFINE_TEST_PAUSE_S", str(SHORT_PAUSE_S))
    kinds: list[Kind] = ["500", "slow-down", "reset", "lost-answer", "reset-mid-body", "short-read", "damaged-read"]
    proxy.faults += [Fault(kind, every=5 + i, times=10_000) for i, kind in enumerate(kinds)]
    proxy.faults.append(Fault("damaged-write", method="PUT", every=7, times=10_000))
    run_node(config)
    struck = sum(f.struck for f in proxy.faults)
    proxy.faults.clear()
    assert struck > COUNT
    settle(table, config, published, f"S3: {struck} errors, resets, damaged bodies", "repeated until they pass", {})


def test_an_object_that_cannot_be_read(
    table: AddRow, images: Path, published: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_s3(images, "unreadable")
    monkeypatch.setenv("REFINE_TEST_RETRY_S", "1.0")
    proxy.faults.append(Fault("503", method="GET", path="/in/0005.png", times=10_000))
    run_node(config)
    ledger = read_ledger(f"{config.out}/outcomes")
    died = {r["item_id"]: r["reason"] for r in ledger.to_pylist() if r["status"] == "dead"}
    assert died == {"item-0005": "file.unreadable"}
    proxy.faults.clear()
    again = run_node(config.model_copy(update={"retry_dead": True}))
    assert again.counts.done == 1, "only the dead letter is run again"
    settle(table, config, published, "one object unreadable", "a dead letter; retry_dead mends it", {})


def test_a_ledger_that_cannot_be_read_is_not_an_empty_one(
    table: AddRow, images: Path, published: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_s3(images, "brown-out")
    run_node(config)
    with monkeypatch.context() as patience:
        patience.setattr(s3, "RETRY_BUDGET_S", 0.5)
        proxy.faults.append(Fault("503", method="GET", path="/outcomes/", times=10_000))
        with pytest.raises(JobError, match="is there and cannot be read"):
            run_node(config)
        proxy.faults.clear()
    assert run_node(config).launches == 0
    promise = "the start stops; nothing is refined twice"
    settle(table, config, published, "ledger unreadable for a while", promise, {})


def test_credentials_expire_in_mid_run(
    table: AddRow, images: Path, published: Path, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_s3(images, "expiry")
    credentials = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(credentials))
    monkeypatch.setenv("REFINE_TEST_SLEEP_S", "0.05")
    s3._client_of.clear()

    def log_in(key_id: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = secret\n")

    def expire_and_renew() -> None:
        wait_until(lambda: len(published.read_text().splitlines()) >= 6)
        proxy.faults.append(Fault("expired", key_id="FIRSTKEY", times=10_000))
        time.sleep(2.0)
        log_in("SECONDKEY")

    log_in("FIRSTKEY")
    thread = threading.Thread(target=expire_and_renew)
    thread.start()
    verdict = run_node(config)
    thread.join()
    struck = sum(f.struck for f in proxy.faults)
    proxy.faults.clear()
    s3._client_of.clear()
    assert struck > 0
    assert verdict.launches == 1, "the rank waited instead of dying"
    settle(table, config, published, "credentials expire in mid-run", "pauses, and goes on once renewed", {})


def test_a_bucket_that_is_not_there(table: AddRow, images: Path, published: Path, proxy: Proxy) -> None:
    config = RefineBatchConfig(manifest=str(images), out="s3://puddle/run", worker=WORKER)
    with pytest.raises(JobError, match=r"cannot write s3://puddle/.*NoSuchBucket"):
        run_node(config)
    with pytest.raises(ItemError, match="no such bucket"):
        storage.read("s3://puddle/0001.png")
    boto3.client("s3").create_bucket(Bucket="puddle")
    run_node(config)
    settle(table, config, published, "no such bucket", "stops before anything is run; then as usual", {})
