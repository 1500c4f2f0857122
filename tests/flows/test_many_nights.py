"""Nights drawn at random over one run folder on S3, and what must be published after them.

Rows come, change, move and go, ids are renamed, pictures are taken anew, copied and lost; adapters are published,
promoted and taken back, the pixel code moves, people review; the power goes at random writes, the ledger is denied and
browns out, credentials expire, answers get lost, two start at once, on clocks an hour apart.

After every good night the published set must be, byte for byte, what a journal of what was asked for calls for
(`tests/support/rebuild.py`, which knows no plan and no ledger), and the device must have done what that calls for and
nothing else. At the end the journal is told once more by that script alone.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import safetensors.numpy

from flows.steps import summary
from flows.steps.batch import run_batch
from flows.steps.engine import Engine
from refine_ops import adapters, s3, storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job import published, run_folder, starts, upkeep
from refine_ops.job.launch import NodeVerdict
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.report.review import Action, Decision, Decisions, apply_decisions
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.promotion.promote import decide_promotion
from tests.support import ROOT
from tests.support.night_rank import RankHere, die_at_write
from tests.support.node import FAST, make_items
from tests.support.rebuild import History
from tests.support.servers.s3_proxy import Fault, Kind, Proxy
from tests.support.servers.site import AUTH, Site

pytestmark = pytest.mark.processes

Night = Callable[[RefineBatchConfig, Any], object]
LIMITS = {"max_dead": 0.0, "max_de00": 50.0, "max_shift_px": 50.0, "allow_unmeasured": True}


def in_process(config: RefineBatchConfig, rank: RankHere) -> object:
    return run_batch(config, on_pool=rank)


class Shop:
    """A shop's catalogue, the run folder it is refined in, and the journal of what happened to both."""

    def __init__(self, folder: Path, bucket: str, count: int, seed: int, proxy: Proxy) -> None:
        self.folder, self.root, self.run = folder, f"s3://{bucket}", f"s3://{bucket}/run"
        self.registry = f"{self.root}/adapters"
        self.rng, self._proxy = random.Random(seed), proxy
        self._s3, self._bucket = boto3.client("s3"), bucket
        self._s3.create_bucket(Bucket=bucket)
        (folder / "pictures").mkdir(parents=True)
        self.rows = [json.loads(line) for line in make_items(folder / "first", count).read_text().splitlines()]
        self.pictures: dict[str, str] = {}
        for row in self.rows:
            self.picture(row, (folder / "first" / row["image"]).read_bytes())
            self.row_number(row)
        self.numbers = self.clock_s = 0
        self.history = History(folder, self.run)
        self.told: list[str] = []
        self.settled = True

    # -- what is there

    def picture(self, row: dict[str, Any], data: bytes) -> None:
        """What the row names is this now."""
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "pictures" / digest).write_bytes(data)
        self._s3.put_object(Bucket=self._bucket, Key=f"images/{row['item_id']}.png", Body=data)
        row["image"] = f"{self.root}/images/{row['item_id']}.png"
        self.pictures[row["image"]] = digest

    def row_number(self, row: dict[str, Any]) -> None:
        """A prompt of its own tells what the device was given."""
        row["regions"][0]["prompt"] = f"Refine {row['item_id']}"

    def row(self) -> dict[str, Any]:
        return self.rng.choice(self.rows)

    def data(self, row: dict[str, Any]) -> bytes:
        return (self.folder / "pictures" / self.pictures[row["image"]]).read_bytes()

    def in_force(self) -> list[str]:
        now = adapters.current(self.registry)
        return [] if now is None else [now.version]

    # -- a night

    def config(self, **settings: object) -> dict[str, Any]:
        model = {"adapters": ["promoted"], "registry": self.registry}
        return {
            "manifest": f"{self.root}/manifest.jsonl",
            "out": self.run,
            "worker": FAST.model_copy(update={"flush_items": 2}).model_dump(),
            "lanes": "work-pool",
            "report_items": 0,
            "allow_tiny": True,
            "on_new_fingerprint": "new-work",
            "max_removed": 1.0,
            "max_redone": 1.0,
            "refine": {"publish": "all", "model": model},
            **settings,
        }

    def journal(self, **event: object) -> None:
        with (self.folder / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(event) + "\n")
        self.history.apply(json.loads(json.dumps(event)))

    @contextmanager
    def night(self, end: str, redo: int = 0) -> Iterator[Path]:
        """A night that is expected to end so; what it gives is where the device's work is written down."""
        self.numbers += 1
        text = "\n".join(json.dumps(row) for row in self.rows)
        (self.folder / f"manifest-{self.numbers}.jsonl").write_text(text)
        self._s3.put_object(Bucket=self._bucket, Key="manifest.jsonl", Body=text.encode())
        before = starts.start_numbers(self.run)
        weights = [self.in_force(), run_folder.PIXEL_VERSION]
        yield self.folder / f"device-{self.numbers}.log"
        new = [n for n in starts.start_numbers(self.run) if n not in before]
        self.journal(
            kind="night",
            number=self.numbers,
            end=end,
            start=new[-1] if new else None,
            pictures=self.pictures,
            weights=weights,
            redo=redo,
        )

    def good(self, redo: int = 0, rank: type[RankHere] = RankHere, by: Night = in_process, **settings: object) -> None:
        """A night that ends well publishes what the journal calls for."""
        settings = {"canary": self.rng.choice([None, 2]), "canary_limits": LIMITS, **settings}
        with self.night("good", redo) as log:
            before, faults = len(self._proxy.requests), len(self._proxy.faults)
            by(RefineBatchConfig.model_validate(self.config(**settings)), rank(log))
            asked = Counter(path for verb, path, _ in self._proxy.requests[before:] if verb == "GET")
        reads = {path: count for path, count in asked.items() if "/outcomes/part-" in path}
        assert faults or reads
        assert faults or set(reads.values()) == {1}, "every part of the ledger is read once a night"
        assert self.history.published() == self.history.must_be(), self.told[-3:]
        self.settled = True

    def bad(self, error: type[BaseException], end: str = "refused", **settings: object) -> None:
        """A night that fails publishes nothing."""
        before = self.history.published()
        with self.night(end) as log, pytest.raises(error):
            in_process(RefineBatchConfig.model_validate(self.config(**settings)), RankHere(log))
        assert self.history.published() == before

    # -- the catalogue changes

    def rows_come(self) -> None:
        for _ in range(2):
            new = {"item_id": f"item-{1000 + len(self.pictures)}", "regions": [{"box": [5, 5, 30, 30]}]}
            self.picture(new, self.data(self.row()))
            self.row_number(new)
            self.rows.append(new)

    def rows_change(self) -> None:
        for row in self.rng.sample(self.rows, 3):
            x = self.rng.randrange(2, 14)
            row["regions"][0]["box"] = [x, self.rng.randrange(2, 10), x + self.rng.randrange(12, 30), 40]

    def rows_move(self) -> None:
        self.rng.shuffle(self.rows)

    def rows_go(self) -> None:
        for row in self.rng.sample(self.rows, max(0, min(2, len(self.rows) - 20))):
            self.rows.remove(row)

    def an_id_is_renamed(self) -> None:
        row = self.row()
        row["output"] = row.get("output", f"{row['item_id']}.png")
        row["item_id"] = f"renamed-{self.numbers}"

    def a_picture_is_taken_anew(self) -> None:
        other, taken = self.rng.sample(self.rows, 2)
        key = taken["image"].removeprefix(f"{self.root}/")
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=self.data(other))
        self.pictures[taken["image"]] = self.pictures[other["image"]]

    def pictures_are_copied(self) -> None:
        """As a move to another bucket does it: in parts, so that the store says something else of the same bytes."""
        for row in self.rng.sample(self.rows, 8):
            where = {"Bucket": self._bucket, "Key": row["image"].removeprefix(f"{self.root}/")}
            upload = self._s3.create_multipart_upload(**where)["UploadId"]
            etag = self._s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=self.data(row))["ETag"]
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            self._s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)

    def a_category_is_renamed(self) -> None:
        for row in self.rows:
            row["category"] = f"season-{self.numbers}"

    # -- people decide

    def review(self, action: Action | None) -> None:
        known = read_ledger(f"{self.run}/outcomes", ["fingerprint", "status"]).to_pylist()
        done = {row["item_id"]: row["fingerprint"] for row in known if row["status"] == "done"}
        out = [i for i in self.history.excluded if i in done]
        item = self.rng.choice(out if action is None and out else [i for i in done if i in self.history.made])
        given = "approve" if action is None else "reject"
        decision = Decision(run=self.run, item_id=item, fingerprint=done[item], decision=given)
        decisions = Decisions(schema="refine-ops/decisions/1", report="r", decisions=(decision,))
        apply_decisions(self.run, decisions, action or "redo")
        self.journal(kind="reviewed", item=item, fingerprint=done[item], action=action or "keep")

    def a_reviewer_rejects(self) -> None:
        self.review("redo")

    def a_reviewer_takes_one_out_and_another_lets_it_in(self) -> None:
        self.review("exclude")
        self.good()
        self.clock_s -= 3000  # the other one's clock
        self.review(None)

    def pictures_are_rolled_back(self) -> None:
        kept = sorted(self.history.after)[-3:-1]
        if kept:
            upkeep.roll_back(reopen_run(self.run)[0], to=kept[0])
            self.journal(kind="rolled_back", to=kept[0])
            self.settled = False  # the settings of then are the folder's again, whichever they were

    # -- weights and code change

    def an_adapter_is_trained(self) -> str:
        weights = {"lora": np.frombuffer(self.rng.randbytes(64), np.float32)}
        return adapters.publish(self.registry, safetensors.numpy.save(weights)).version

    def an_adapter_is_promoted(self) -> None:
        adapters.promote(self.registry, self.an_adapter_is_trained(), "better")
        if self.settled:
            self.bad(JobError, on_new_fingerprint="refuse")
        self.good()

    def an_adapter_is_taken_back(self) -> None:
        self.an_adapter_is_promoted()
        taken = self.in_force()
        adapters.rollback(self.registry, "bad in production")
        schedule = TrainLoraConfig(dataset="none", out=str(self.folder / "training"), registry=self.registry)
        assert not decide_promotion(schedule, taken[0]).promoted
        assert self.in_force() != taken
        self.rows_change()

    def an_upgrade_is_rolled_out(self) -> None:
        run_folder.PIXEL_VERSION += 1  # type: ignore[misc]
        self.rows_change()
        self.good(redo=5, on_new_fingerprint="redo", max_new=5)

    # -- what goes wrong

    def the_power_goes(self) -> None:
        """At a random write of a night in a process of its own: whatever it was, the next night goes on."""
        self.rows_change()
        self.rows_come()
        at, after = self.rng.randrange(1, 26), self.rng.randrange(2)
        with self.night("killed") as log:
            code = self._in_a_process(log, at, bool(after))
        self.told.append(f"{'right after' if after else 'before'} write {at}: {code}")

    def _in_a_process(self, log: Path, at: int, after: bool) -> int:
        config = RefineBatchConfig.model_validate(self.config())
        child = os.fork()
        if not child:
            try:
                die_at_write(at, after=after)
                run_batch(config, on_pool=RankHere(log))
                os._exit(0)  # it ended before that write
            finally:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code

    def the_canary_is_refused(self) -> None:
        row = self.row()
        self.rows_change()
        row["regions"][0]["prompt"] = "raise"
        self.bad(JobError, "canary", canary=99, canary_limits=LIMITS)
        self.row_number(row)
        row["regions"][0]["prompt"] = f"Refine {row['item_id']} after canary {self.numbers}"

    def two_begin_at_once(self) -> None:
        shop = self

        class Meanwhile(RankHere):
            def __call__(
                self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
            ) -> NodeVerdict:
                with pytest.raises(starts.RunInUse):
                    run_batch(config, on_pool=RankHere(shop.folder / "device-of-the-second.log"))
                return super().__call__(config, folder, todo, label, engine)

        self.rows_change()
        self.good(rank=Meanwhile)
        assert not (self.folder / "device-of-the-second.log").exists()

    def the_export_is_broken(self) -> None:
        rows = self.rows
        for broken in ([], rows[:5]):
            self.rows = broken
            self.bad(JobError, max_removed=0.1)
        self.rows = rows

    def a_column_is_rewritten(self) -> None:
        rows = json.loads(json.dumps(self.rows))
        for row in self.rows:
            row["regions"][0]["prompt"] += ", please"
        self.bad(JobError, max_redone=0.5)
        self.rows = rows

    def the_ledger_is_denied(self) -> None:
        self._struck("denied", "/outcomes/", JobError)

    def the_ledger_browns_out(self) -> None:
        self._struck("slow-down", "/outcomes/", JobError)

    def _struck(self, kind: Kind, path: str, error: type[BaseException]) -> None:
        self.rows_change()
        fault = Fault(kind, method="GET", path=path, times=10_000)
        self._proxy.faults.append(fault)
        # What the test itself reads does not go by way of the proxy's faults: only `.parquet` below `outcomes/` does.
        self.bad(error)
        assert fault.struck
        self._proxy.faults.clear()

    def the_store_has_a_bad_night(self) -> None:
        self.rows_change()
        self._proxy.faults += [
            Fault("503", times=8, every=5),
            Fault("reset", method="GET", times=3, every=9),
            Fault("lost-answer", method="PUT", path="/published/"),
            Fault("lost-answer", method="PUT", path="/starts/"),
        ]
        self.good()
        self._proxy.faults.clear()

    def a_credential_expires(self) -> None:
        self.rows_change()
        self._proxy.faults.append(fault := Fault("expired", path="/run/outputs/", times=2))
        self.good()
        assert fault.struck == 2
        self._proxy.faults.clear()

    def a_file_is_lost(self) -> None:
        newest = published.newest(self.run)
        assert newest is not None
        item, at = self.rng.choice(newest.table.select(["item_id", "object"]).to_pylist()).values()
        storage.delete(f"{self.run}/{at}")
        assert len(upkeep.check_outputs(reopen_run(self.run)[0])[1]) == 1
        self.journal(kind="lost", item=item)


EVERY_NIGHT = (
    *(Shop.rows_come, Shop.rows_change, Shop.rows_move, Shop.rows_go, Shop.an_id_is_renamed),
    *(Shop.a_picture_is_taken_anew, Shop.pictures_are_copied, Shop.a_category_is_renamed, Shop.a_reviewer_rejects),
)
A_WEEK = (Shop.an_adapter_is_promoted, Shop.the_power_goes, Shop.the_ledger_is_denied, Shop.the_canary_is_refused)
TWO_MONTHS = (
    *(Shop.an_adapter_is_trained, *3 * (Shop.an_adapter_is_promoted,), Shop.an_adapter_is_taken_back),
    *(*2 * (Shop.an_upgrade_is_rolled_out,), *2 * (Shop.pictures_are_rolled_back,), *20 * (Shop.the_power_goes,)),
    *(*2 * (Shop.the_canary_is_refused,), *2 * (Shop.two_begin_at_once,), *2 * (Shop.the_export_is_broken,)),
    *(Shop.a_column_is_rewritten, *2 * (Shop.the_ledger_is_denied,), *2 * (Shop.the_ledger_browns_out,)),
    *(*3 * (Shop.the_store_has_a_bad_night,), Shop.a_credential_expires, *2 * (Shop.a_file_is_lost,)),
    *2 * (Shop.a_reviewer_takes_one_out_and_another_lets_it_in,),
)


def go_through(
    shop: Shop, nights: int, events: tuple[Callable[[Shop], object], ...], deployed: Night = in_process
) -> str:
    """The nights, then the journal told by the script alone; what it says. Every sixth night ends with the `deployed`
    run, the others with the same in this process: a server takes more time than a night of two dozen pictures."""
    troubles = {night: [] for night in range(nights)}  # type: dict[int, list[Callable[[Shop], object]]]
    for event in shop.rng.sample(events, len(events)):
        troubles[shop.rng.randrange(nights)].append(event)
    shop.good(by=deployed)
    for night in range(nights):
        shop.clock_s = shop.rng.randrange(-3600, 3600)  # another machine, whose clock is an hour off
        for event in [*shop.rng.sample(EVERY_NIGHT, 2), *troubles[night]]:
            shop.told.append(f"{night}: {event.__name__}")
            event(shop)
        shop.good(by=in_process if night % 6 else deployed)
        print(f"night {night}: {shop.told[-4:]}", flush=True)
    ends = [start.exit for start in starts.read_starts(shop.run)]
    assert None not in ends
    command = [sys.executable, "-m", "tests.support.rebuild", str(shop.folder / "journal.jsonl"), shop.run]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    return told.stdout


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(s3, "RETRY_BUDGET_S", 1.0)
    monkeypatch.setattr(summary, "_SHOWN_ITEMS", 1)  # half of a night is the contact sheet of eight
    monkeypatch.setattr(run_folder, "PIXEL_VERSION", run_folder.PIXEL_VERSION)


def on_its_clock(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + shop.clock_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + shop.clock_s * 10**9)
    return shop


@pytest.mark.timeout(600)
def test_a_week_at_random(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = on_its_clock(Shop(tmp_path, "week", 21, 1, s3), monkeypatch)
    print(go_through(shop, 6, A_WEEK))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_nights(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, one Prefect server, one S3 server.

    Last run: 27 November 2026, 5ea8e2e, `pytest -s -n 0 -m slow tests/flows/test_many_nights.py`: passed in 14 min 48 s
    on two slow cores. 75 good starts, 20 killed, 13 refused, 2 canaries that failed; 70 outputs as they must be; 332
    regions refined, none needlessly (16 of them once more, as the power had gone before they were recorded). Start
    nothing beside it that reads by the same proxy: the ledger's reads are counted.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    from flows import refine_batch

    def under_prefect(config: RefineBatchConfig, rank: RankHere) -> object:
        monkeypatch.setattr(refine_batch, "run_on_pool", rank)
        return refine_batch.refine_batch(config)

    site = Site(tmp_path / "prefect")
    known = {PREFECT_API_URL: site.env["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: AUTH}
    try:
        with temporary_settings({**known, PREFECT_LOGGING_TO_API_ENABLED: False}):
            shop = on_its_clock(Shop(tmp_path, "months", 24, 2, s3), monkeypatch)
            print(go_through(shop, 60, TWO_MONTHS, under_prefect))
    finally:
        site.close()
