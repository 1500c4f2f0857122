"""Starts and the published set, under kills between any two writes.

The state machine drives only the public functions, keeps its own list of what was recorded, and is killed before or
after any write. What it asserts is what an operator relies on: nothing lost, nothing stale, nothing uncommitted.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.job import published, starts
from tests.support.sizes import size


def open_now(run: str) -> starts.Start:
    return starts.open_start(run, {}, heartbeat_s=3600.0)


def test_a_start_is_the_lock_and_its_end_frees_it(tmp_path: Path) -> None:
    first = starts.open_start(str(tmp_path), {"manifest": "a.csv"}, heartbeat_s=0.01)
    with pytest.raises(starts.RunInUse, match=rf"start 1, process {os.getpid()} .*Wait until it ends, or stop it"):
        open_now(str(tmp_path))
    first.close("done", done=3)
    second = open_now(str(tmp_path))
    second.close("budget")
    found = starts.read_starts(str(tmp_path))
    assert [(s.number, s.exit) for s in found] == [(1, "done"), (2, "budget")]
    assert found[0].what == {"manifest": "a.csv"}
    assert found[0].end is not None
    assert found[0].end["done"] == 3


KILLED = "import sys, os; from refine_ops.job import starts; starts.open_start(sys.argv[1], {}); os._exit(9)"


@pytest.mark.processes
def test_a_killed_start_is_taken_over_at_once_on_its_own_machine(tmp_path: Path) -> None:
    assert subprocess.call([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2]) == 9
    start = starts.open_start(str(tmp_path), {}, sleep=lambda _: pytest.fail("no need to wait for a dead process"))
    assert start.number == 2
    assert [s.exit for s in starts.read_starts(str(tmp_path))] == ["taken-over", None]


def elsewhere(run: Path, number: int = 1) -> None:
    """Let a start look as if another machine held it."""
    path = run / "starts" / f"{number:08d}.json"
    record = json.loads(path.read_text())
    record["owner"]["host"] += "-other"
    path.write_text(json.dumps(record))


def test_on_another_machine_a_moving_heartbeat_is_life_and_a_still_one_is_death(tmp_path: Path) -> None:
    alive = tmp_path / "starts" / "00000001.alive.json"
    first = open_now(str(tmp_path))
    elsewhere(tmp_path)

    def beats(_: float) -> None:
        alive.write_text('{"count": 77}')

    with pytest.raises(starts.RunInUse):
        starts.open_start(str(tmp_path), {}, sleep=beats)
    second = starts.open_start(str(tmp_path), {}, sleep=lambda _: None)
    assert second.number == 2
    with pytest.raises(starts.RunInUse, match="taken over"):
        first.refuse_if_lost()
    first.close("done")
    assert starts.read_start(str(tmp_path), 1).exit == "taken-over", "the end it was given stands"


def test_of_two_that_open_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.write

    def race(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        if uri.endswith("00000001.json") and not os.path.exists(uri):
            real(uri, data.replace(b'"token": "', b'"token": "another-'), only_if_absent=True)
        real(uri, data, only_if_absent=only_if_absent)

    monkeypatch.setattr(storage, "write", race)
    with pytest.raises(starts.RunInUse, match="at this moment"):
        open_now(str(tmp_path))


def test_a_snapshot_is_committed_once_and_an_older_one_can_be_committed_again(tmp_path: Path) -> None:
    one, two = row("a", 1), row("a", 2)
    published.commit(str(tmp_path), 1, snapshot([one]))
    published.commit(str(tmp_path), 1, snapshot([one]))
    with pytest.raises(JobError, match="has published already"):
        published.commit(str(tmp_path), 1, snapshot([two]))
    published.commit(str(tmp_path), 2, snapshot([two]))
    published.commit(str(tmp_path), 3, published.read(str(tmp_path), 1).table)
    newest = published.newest(str(tmp_path))
    assert newest is not None
    assert newest.table.to_pylist()[0]["start"] == 1


def test_a_snapshot_that_cannot_be_read_is_never_an_empty_one(tmp_path: Path) -> None:
    published.commit(str(tmp_path), 1, snapshot([row("a", 1)]))
    (tmp_path / "published" / "00000001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(JobError, match="restore it"):
        published.newest(str(tmp_path))


def test_current_holds_the_newest_snapshot_under_plain_names(tmp_path: Path) -> None:
    for start in (1, 2):
        for name in ("a.png", "deep/b.png"):
            storage.write(str(tmp_path / f"outputs/{start:08d}/{name}"), f"{name} of {start}".encode())
    published.link_current(str(tmp_path), published.Snapshot(1, snapshot([row("a.png", 1), row("deep/b.png", 1)])))
    assert (tmp_path / "current/deep/b.png").read_text() == "deep/b.png of 1"
    published.link_current(str(tmp_path), published.Snapshot(2, snapshot([row("a.png", 2)])))
    assert [str(p.relative_to(tmp_path / "current")) for p in (tmp_path / "current").rglob("*")] == ["a.png"]
    assert (tmp_path / "current/a.png").read_text() == "a.png of 2"
    assert (tmp_path / "current/a.png").stat().st_nlink == 2, "a hard link, no second copy"


@dataclasses.dataclass(frozen=True)
class Recorded:
    item: str
    start: int
    status: str


def row(name: str, start: int) -> dict[str, object]:
    return {
        "item_id": name,
        "name": name,
        "object": f"outputs/{start:08d}/{name}",
        "sha256": bytes.fromhex(storage.sha256(f"{name}-{start}".encode())),
        "bytes": 1,
        "fingerprint": "f",
        "start": start,
    }


def snapshot(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=published.SCHEMA)


class Killed(BaseException):
    pass


class Nights(RuleBasedStateMachine):
    """One folder through many starts; `recorded` is the ledger, which this machine keeps by itself."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.run = tempfile.mkdtemp(prefix="nights-")
        self.recorded: list[Recorded] = []
        self.start: starts.Start | None = None
        self.may_be_newest: list[set[tuple[str, int]]] = [set()]
        self.writes_left: int | None = None
        self.kill_after = False
        self._real = storage.write
        starts.storage.write = self._write  # type: ignore[attr-defined]

    def teardown(self) -> None:
        self.writes_left = None
        self._let_go()
        starts.storage.write = self._real  # type: ignore[attr-defined]

    def _write(self, uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        if ".alive" in uri or self.writes_left is None:
            return self._real(uri, data, only_if_absent=only_if_absent)
        if self.writes_left == 0:
            self.writes_left = None
            if self.kill_after:
                self._real(uri, data, only_if_absent=only_if_absent)
            raise Killed
        self.writes_left -= 1
        return self._real(uri, data, only_if_absent=only_if_absent)

    def _let_go(self) -> None:
        """The process dies: its thread ends, its start stays open, and its owner is gone."""
        if self.start is not None:
            self.start._ended.set()
            starts._open_here.discard(self.start._token)
            self.start = None
        for path in sorted((Path(self.run) / "starts").glob("????????.json"))[-1:]:
            record = json.loads(path.read_text())
            record["owner"]["born"] = "another process"
            path.write_text(json.dumps(record))

    @rule(
        planned=st.frozensets(st.sampled_from("abcd"), min_size=1),
        statuses=st.lists(st.sampled_from(["done", "done", "dead", "left"]), min_size=4, max_size=4),
        exit=st.sampled_from(["done", "budget", "canary"]),
        writes=st.none() | st.integers(0, 4),
        after=st.booleans(),
    )
    def night(
        self, planned: frozenset[str], statuses: list[str], exit: starts.Exit, writes: int | None, after: bool
    ) -> None:
        """One start from its record to its end, killed before or after its write number `writes`, or not at all."""
        self.writes_left, self.kill_after = writes, after
        try:
            self.start = open_now(self.run)
            for item, status in zip("abcd", statuses, strict=True):
                if item in planned and status != "left":
                    self._refine(item, self.start.number, status)
            if exit == "canary":
                self.start.void()
            else:
                table = published.compose(self._ledger(), pa.array(sorted(planned), pa.string()))
                self.start.refuse_if_lost()
                wanted = self._wanted(planned)
                self.may_be_newest = [self._newest(), wanted]
                published.commit(self.run, self.start.number, table)
                self.may_be_newest = [wanted]
            self.start.close(exit)
            self.start = None
        except Killed:
            self._let_go()
        finally:
            self.writes_left = None

    @rule()
    def second_start_meanwhile(self) -> None:
        first = open_now(self.run)
        with pytest.raises(starts.RunInUse):
            open_now(self.run)
        first.close("stopped")

    def _refine(self, item: str, start: int, status: str) -> None:
        if status == "done":
            storage.write(str(Path(self.run) / f"outputs/{start:08d}/{item}"), f"{item}-{start}".encode())
        self.recorded.append(Recorded(item, start, status))

    def _ledger(self) -> pa.Table:
        void = starts.void_starts(self.run)
        latest: dict[str, Recorded] = {}
        for r in self.recorded:
            if r.start not in void:
                latest[r.item] = r
        rows = [
            {
                "item_id": r.item,
                "status": r.status,
                "output": r.item,
                "object": row(r.item, r.start)["object"],
                "output_sha256": storage.sha256(f"{r.item}-{r.start}".encode()),
                "output_bytes": 1,
                "fingerprint": "f",
                "start": r.start,
            }
            for r in latest.values()
        ]
        text, number = pa.string(), pa.int64()
        types = {"output_bytes": number, "start": number}
        names = ["item_id", *published.LEDGER_COLUMNS]
        return pa.Table.from_pylist(rows, schema=pa.schema([(n, types.get(n, text)) for n in names]))

    def _wanted(self, planned: frozenset[str]) -> set[tuple[str, int]]:
        """What must be published now, told from the files themselves and this machine's own list."""
        void = {int(p.name[:8]) for p in (Path(self.run) / "starts").glob("*.void.json")}
        latest = {r.item: r for r in self.recorded if r.start not in void}
        return {(r.item, r.start) for r in latest.values() if r.status == "done" and r.item in planned}

    def _newest(self) -> set[tuple[str, int]]:
        found = published.newest(self.run)
        return set() if found is None else {(r["item_id"], r["start"]) for r in found.table.to_pylist()}

    @invariant()
    def only_what_was_committed_may_be_used(self) -> None:
        assert self._newest() in self.may_be_newest

    @invariant()
    def what_may_be_used_is_there_with_its_own_bytes(self) -> None:
        found = published.newest(self.run)
        for r in [] if found is None else found.table.to_pylist():
            data = (Path(self.run) / r["object"]).read_bytes()
            assert bytes.fromhex(storage.sha256(data)) == r["sha256"]

    @invariant()
    def starts_have_no_gaps_and_at_most_the_newest_is_open(self) -> None:
        found = starts.read_starts(self.run)
        assert [s.number for s in found] == list(range(1, len(found) + 1))
        assert all(s.end is not None for s in found[:-1])


TestNights = Nights.TestCase
TestNights.settings = settings(max_examples=size(100, 10), stateful_step_count=12, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_two_thousand_histories(seed: int) -> None:
    """A thousand for each seed, none of them drawn from an earlier run.

    Last run: 2026-11-27, `pytest -m slow tests/job/test_starts_and_published.py -k histories`, one seed at a time, two
    cores shared with other work: seed 1 passed in 660 s, seed 2 in 588 s.
    """
    from hypothesis import seed as seeded
    from hypothesis.stateful import run_state_machine_as_test

    drawn = settings(max_examples=1000, stateful_step_count=10, deadline=None, database=None)
    run_state_machine_as_test(seeded(seed)(Nights), settings=drawn)
