"""What is left of a plan, and what finding out costs: nothing is refined for nothing, nothing is asked twice."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.job.inputs import InputRecord, identity_of, read_inputs
from refine_ops.job.ledger import outcomes_table, read_ledger, write_part
from refine_ops.job.outcome import Attempt, Output, done
from refine_ops.job.planning.known import known_of, read_known
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.planning.remaining import Remaining, remaining
from refine_ops.job.planning.touched import settle_touched
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Outcome, Verification
from tests.support.servers.s3_proxy import Proxy, s3_proxy

PROOF = Verification("pillow", 1, 1, 0, 0, 0, True)
LIMIT = 1 << 20


@dataclass
class Run:
    """A run folder of which everything is done, made without a worker."""

    root: Path
    rows: list[dict[str, object]]

    def plan(self) -> PlanReader:
        manifest = self.root / "manifest.jsonl"
        manifest.write_text("\n".join(map(json.dumps, self.rows)))
        return PlanReader(make_plan(str(manifest), str(self.root / "run"), access=AccessSettings()).uri)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(str(self.root / "run"), "now", start=1)

    def finish(self, fingerprint: str = "now", start: int = 1) -> None:
        plan, outcomes = self.plan(), []
        for position in range(len(plan)):
            item, request = plan.item(position)
            record = InputRecord()
            read_inputs(item, AccessSettings(), LIMIT, record)
            attempt = Attempt(item, request, fingerprint, start, inputs=record)
            outcomes.append(done(attempt, Output(item.output, "o", "PNG", 1, 1, "0" * 64, 1), (), PROOF))
        write_part(self.folder.outcomes, outcomes_table(outcomes), "test")

    def look(self, max_older: int | None = 0) -> Remaining:
        """What a start finds."""
        plan = self.plan()
        ledger = read_known(self.folder.outcomes, plan)
        found = remaining(plan, ledger, recheck=True, retry_dead=False, fingerprint="now", max_older=max_older)
        return settle_touched(found, plan, self.folder, AccessSettings(), LIMIT)


def row(name: str, **more: object) -> dict[str, object]:
    region = {"box": [0, 0, 4, 4], "prompt": "Refine it", **more}
    return {"item_id": name, "image": f"images/{name}.png", "regions": [region]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "images").mkdir()
    for name in "abcd":
        (tmp_path / "images" / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "logo.png").write_bytes(b"logo")
    made = Run(tmp_path, [row(name, reference="logo.png") for name in "abcd"])
    made.finish()
    return made


def test_a_touched_file_with_the_same_bytes_is_read_once_and_never_refined(run: Run) -> None:
    for name in ("images/a.png", "images/b.png", "logo.png"):
        os.utime(run.root / name, (1, 1))
    found = run.look()
    assert (found.positions.tolist(), found.done, found.again) == ([], 4, 0)
    plan = run.plan()
    ledger = read_known(run.folder.outcomes, plan)
    assert not len(remaining(plan, ledger, recheck=True, retry_dead=False, fingerprint="now").touched), (
        "what was found is recorded: the next start reads nothing"
    )
    assert sorted(read_ledger(run.folder.outcomes)["start"].to_pylist()) == [1] * 4, "no work of another start"


def test_other_bytes_are_refined_and_so_is_every_item_of_another_reference(run: Run) -> None:
    (run.root / "images/a.png").write_bytes(b"another")
    os.utime(run.root / "images/b.png", (1, 1))
    found = run.look()
    assert (found.positions.tolist(), found.done, found.again) == ([0], 3, 1)
    (run.root / "logo.png").write_bytes(b"another logo")
    assert run.look().positions.tolist() == [0, 1, 2, 3]


def test_a_file_that_went_is_tried_again_and_not_taken_for_the_same(run: Run) -> None:
    (run.root / "images/c.png").unlink()
    assert run.look().positions.tolist() == [2]


def test_a_category_is_not_asked_for(run: Run) -> None:
    run.rows = [{**r, "category": "spring"} for r in run.rows]
    assert len(run.look().positions) == 0


def test_what_an_earlier_fingerprint_made_stays_until_it_is_asked_for(run: Run) -> None:
    run.finish("before", start=2)
    found = run.look()
    assert (len(found.positions), found.done, found.older) == (0, 4, 4)
    os.utime(run.root / "images/a.png", (1, 1))
    assert len(run.look().positions) == 0, "compared under the fingerprint that made it"
    found = run.look(max_older=3)
    assert (found.positions.tolist(), found.older, found.again) == ([0, 1, 2], 1, 3)
    assert run.look(max_older=None).positions.tolist() == [0, 1, 2, 3]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with s3_proxy(f"http://{host}:{port}") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        boto3.client("s3").create_bucket(Bucket="lake")
        yield proxy
    server.stop()


def put(*keys: str) -> None:
    """Straight into the server, which is in this process: thousands of requests would take minutes."""
    for key in keys:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("lake", key, key.encode())


def asked(proxy: Proxy) -> dict[str, int]:
    kinds = [("LIST" if "list-type=2" in path else method) for method, path, _ in proxy.requests]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


@pytest.mark.processes
def test_each_input_is_looked_up_once_and_a_page_of_a_listing_tells_a_thousand(tmp_path: Path, s3: Proxy) -> None:
    """1,200 photos of one folder, each with the one logo, and three strays: keys / 1,000 + distinct others."""
    names = [f"{i:05}" for i in range(1200)]
    put(*(f"photos/{name}.png" for name in names), "logos/logo.png", *(f"strays/{i}.png" for i in range(3)))
    region = {"box": [0, 0, 4, 4], "prompt": "Refine it", "reference": "s3://lake/logos/logo.png"}
    images = [f"s3://lake/photos/{name}.png" for name in reversed(names)]
    images += [f"s3://lake/strays/{i}.png" for i in range(3)]
    run = Run(tmp_path, [{"item_id": f"i{n}", "image": uri, "regions": [region]} for n, uri in enumerate(images)])
    plan = run.plan()
    outcomes = []
    said = storage.identities([*images, "s3://lake/logos/logo.png"])
    for position in range(len(plan)):
        item, request = plan.item(position)
        attempt = Attempt(item, request, "now", 1)
        attempt.inputs.identity = identity_of(item, said)
        outcomes.append(done(attempt, Output(item.output, "o", "PNG", 1, 1, "0" * 64, 1), (), PROOF))
    s3.requests.clear()
    ledger = known_of(outcomes_table(outcomes), plan)
    found = remaining(plan, ledger, recheck=True, retry_dead=False, fingerprint="now")
    assert len(found.positions) == 0
    assert asked(s3) == {"HEAD": 4, "LIST": 2}

    put("photos/00700.png")  # the same bytes: the same ETag
    boto3.client("s3").put_object(Bucket="lake", Key="photos/00007.png", Body=b"another")
    found = remaining(plan, ledger, recheck=True, retry_dead=False, fingerprint="now")
    assert [plan.item(int(p))[0].image for p in found.touched] == ["s3://lake/photos/00007.png"]


@pytest.mark.processes
def test_listed_and_asked_are_the_same_and_a_large_folder_is_not_read_for_a_few(s3: Proxy) -> None:
    everything = [f"big/{i:05}.png" for i in range(0, 6000, 2)]
    put(*everything)
    few = [f"s3://lake/big/{i:05}.png" for i in range(0, 6000, 60)]  # every thirtieth that is there
    gone = [f"s3://lake/big/{i:05}.png" for i in range(1, 99, 2)]
    s3.requests.clear()
    listed = storage.identities([*few, *gone])
    counts = asked(s3)
    assert counts["LIST"] <= 4, "pages of which hardly one line is wanted are not turned over"
    one_by_one = {uri: storage.identities([uri])[uri] for uri in [*few[:9], few[-1], gone[0]]}
    assert one_by_one == {uri: listed[uri] for uri in one_by_one}
    assert listed[gone[0]] == "file.missing"


def test_parts_are_filtered_as_they_are_read(run: Run) -> None:
    write_part(run.folder.outcomes, outcomes_table([another_try(run, 2)]), "later")
    table = read_ledger(run.folder.outcomes, items=pa.array(["b", "c"]))
    assert sorted(zip(table["item_id"].to_pylist(), table["start"].to_pylist(), strict=True)) == [("b", 2), ("c", 1)]


def another_try(run: Run, start: int) -> Outcome:
    item, request = run.plan().item(1)
    return done(Attempt(item, request, "now", start), Output(item.output, "o", "PNG", 1, 1, "0" * 64, 1), (), PROOF)
