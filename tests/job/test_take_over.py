"""A run folder as release 0.1.0 left it: refused by name, taken over, killed half-way, and worked in as any other."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from refine_ops import storage
from refine_ops.config import AccessSettings, RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job import published
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning import plan as planning
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PlanReader, request_of
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.run_folder import find_run, reopen_run
from refine_ops.job.starts import read_starts
from refine_ops.job.take_over import take_over
from tests.support.node import FAST, make_items, outputs_of, run_node

pytestmark = pytest.mark.processes

NEW = ("object", "start", "run_fingerprint")


def old_request(item: planning.Item) -> str:
    regions = [planning._region_row(region) for region in item.regions]
    asked = [item.image, item.output, item.category, item.salt, regions]
    return hashlib.blake2b(json.dumps(asked, separators=(",", ":")).encode(), digest_size=16).hexdigest()


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six items with categories, refined by this release and laid out as the earlier one did."""
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "written.log"))
    manifest = make_items(tmp_path / "images", 6)
    rows = [json.loads(line) | {"category": "shoes"} for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    run = tmp_path / "run"
    monkeypatch.setattr(planning, "request_of", old_request)
    run_node(RefineBatchConfig(manifest=str(manifest), out=str(run), worker=FAST))
    monkeypatch.undo()
    for path in (run / "outputs/00000001").iterdir():
        path.rename(run / "outputs" / path.name)
    (run / "outputs/00000001").rmdir()
    for number, part in enumerate((run / "outcomes").iterdir()):
        table = pq.read_table(part).drop_columns(list(NEW)).replace_schema_metadata({"refine_ops.outcome": "1"})
        part.unlink()
        pq.write_table(table, run / "half")
        digest = storage.sha256((run / "half").read_bytes())[:16]
        (run / "half").rename(run / f"outcomes/part-{number:020d}-r0-{digest}.parquet")
    shutil.rmtree(run / "starts")
    shutil.rmtree(run / "published")
    return run


def flat(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "outputs").iterdir() if p.is_file()}


def plan_anew(run: Path) -> None:
    """As the next start does."""
    planning.make_plan(str(run.parent / "images/manifest.jsonl"), str(run), access=AccessSettings())


def to_do(run: Path) -> list[int]:
    plan = PlanReader(str(run / "plan.parquet"))
    positions = [plan.item(i)[0] for i in range(len(plan))]
    known = read_known(str(run / "outcomes"), plan)
    asked = [request_of(item) for item in positions]
    assert len(set(asked)) == len(asked)
    return remaining(plan, known, recheck=True, retry_dead=False).positions.tolist()


def test_it_is_refused_by_name_and_taken_over_without_refining(old: Path) -> None:
    folder, record = reopen_run(str(old))
    pictures = flat(old)
    with pytest.raises(JobError, match=r"release 0.1.0; .* refine-ops take-over"):
        find_run(str(old), record["parts"])
    found = take_over(folder)
    assert (found.published, found.damaged) == (6, 0)
    assert outputs_of(old) == pictures
    assert flat(old) == {}, "nothing lies twice"
    assert {p.name: p.read_bytes() for p in (old / "current").iterdir()} == pictures
    assert set(read_ledger(folder.outcomes, ["run_fingerprint"])["run_fingerprint"].to_pylist()) == {folder.fingerprint}
    assert find_run(str(old), record["parts"]).uri == folder.uri
    plan_anew(old)
    assert to_do(old) == [], "what it asked for then is what it asks for now, the category apart"
    with pytest.raises(JobError, match="nothing to take over"):
        take_over(folder)


def test_an_altered_output_is_not_published_and_is_refined_again(old: Path) -> None:
    folder, _ = reopen_run(str(old))
    (old / "outputs/item-0003.png").write_bytes(b"by hand")
    found = take_over(folder)
    assert (found.published, found.damaged) == (5, 1)
    assert "item-0003.png" not in {p.name for p in (old / "current").iterdir()}
    plan_anew(old)
    assert to_do(old) == [3]


@pytest.mark.parametrize("writes", range(2, 12, 2))
def test_killed_anywhere_it_is_repeated(old: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    folder, record = reopen_run(str(old))
    pictures, real, left = flat(old), storage.write, [writes]

    def write(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        if ".alive" not in uri and ".end" not in uri:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        real(uri, data, only_if_absent=only_if_absent)

    monkeypatch.setattr(storage, "write", write)
    try:
        take_over(folder)
    except KeyboardInterrupt:
        with pytest.raises(JobError, match="take-over"):
            find_run(str(old), record["parts"])
        left[0] = 1000
        take_over(folder)
    newest = published.newest(str(old))
    assert newest is not None
    assert {n: (old / at).read_bytes() for n, at in newest.objects().items()} == pictures
    assert read_starts(str(old))[-1].exit == "done"
