"""What operators do with a run folder over months: export, check, roll back, prune."""

import contextlib
import os
from pathlib import Path

import pytest

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.job import export, starts, upkeep
from refine_ops.job.ledger import read_ledger
from tests.support.nights import night


class Killed(BaseException):
    pass


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".refine-ops")
    }


def test_an_export_copies_what_changed_and_removes_what_is_no_longer_published(tmp_path: Path) -> None:
    run, shop = tmp_path / "run", tmp_path / "shop"
    night(run, {item: f"{item} of 1" for item in "abcdefghij"})
    first = export.export(str(run), str(shop))
    assert (len(first.copied), first.removed, first.unchanged) == (10, (), 0)
    night(run, {item: f"{item} of {2 if item == 'a' else 1}" for item in "abcdefghi"})
    second = export.export(str(run), str(shop))
    assert (list(second.copied), second.removed, second.unchanged) == (["deep/a.png"], ("deep/j.png",), 8)
    assert tree(shop) == {f"deep/{i}.png": f"{i} of {2 if i == 'a' else 1}" for i in "abcdefghi"}
    assert export.export(str(run), str(shop)).copied == {}


def test_an_export_that_would_empty_the_shop_is_refused_with_the_way_to_allow_it(tmp_path: Path) -> None:
    run, shop = tmp_path / "run", tmp_path / "shop"
    night(run, {item: item for item in "abcdefghij"})
    export.export(str(run), str(shop))
    night(run, {"a": "a", "b": "b"})
    with pytest.raises(JobError, match=r"8 of 10 files .* --max-removed 0.80"):
        export.export(str(run), str(shop))
    assert len(tree(shop)) == 10
    export.export(str(run), str(shop), max_removed=0.8)
    assert set(tree(shop)) == {"deep/a.png", "deep/b.png"}


@pytest.mark.parametrize("writes", range(6))
def test_an_export_killed_at_any_write_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    run, shop = tmp_path / "run", tmp_path / "shop"
    night(run, {"a": "a1", "b": "b1", "c": "c1"})
    export.export(str(run), str(shop))
    night(run, {"a": "a2", "b": "b2", "d": "d2"})
    left, real = [writes], storage.write

    def dying(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(uri, data, only_if_absent=only_if_absent)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(storage, "write", dying)
        export.export(str(run), str(shop), max_removed=1.0)
    night(run, {"a": "a3"})  # and what was on its way is no longer wanted
    export.export(str(run), str(shop), max_removed=1.0)
    assert tree(shop) == tree(run / "current")


def test_an_altered_or_lost_output_never_reaches_the_shop_and_is_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = night(run, {"a": "a1", "b": "b1", "c": "c1"})
    objects = {i: Path(folder.uri_of(folder.object_of(f"deep/{i}.png"))) for i in "abc"}
    objects["a"].write_text("A1")
    objects["b"].unlink()
    with pytest.raises(JobError, match=r"refine-ops verify .* made again"):
        export.export(str(run), str(tmp_path / "shop"))
    count, damaged = upkeep.check_outputs(folder)
    assert count == 3
    assert {(d.item_id, d.reason) for d in damaged} == {("a", "output.altered"), ("b", "output.lost")}
    assert set(tree(run / "current")) == {"deep/c.png"}, "out of the published set at once"
    night(run, {"a": "a1", "b": "b1", "c": "c1"})
    assert tree(run / "current") == {"deep/a.png": "a1", "deep/b.png": "b1", "deep/c.png": "c1"}
    assert upkeep.check_outputs(folder) == (3, [])


def test_pictures_are_rolled_back_and_stay_so_until_something_changes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    night(run, {"a": "a1", "b": "b1"})
    folder = night(run, {"a": "a2"})
    upkeep.roll_back(folder, 1)
    assert tree(run / "current") == {"deep/a.png": "a1", "deep/b.png": "b1"}
    before = read_ledger(folder.outcomes, ["output_sha256"]).sort_by("item_id").to_pylist()
    assert [row["start"] for row in before] == [1, 1], "what the bad start refined counts for nothing"
    night(run, {"a": "a1", "b": "b1"})
    assert read_ledger(folder.outcomes, ["output_sha256"]).sort_by("item_id").to_pylist() == before, "nothing redone"
    with pytest.raises(JobError, match=r"start 9 .* published nothing; the newest ones that did: 1, 2, 3, 4"):
        upkeep.roll_back(folder, 9)


def test_pruning_keeps_what_can_be_reached_and_what_is_young_and_shows_before_it_removes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for text in ("1", "2", "3"):
        folder = night(run, {"a": f"a{text}", "b": "b"})
    refused = starts.open_start(str(run), {})
    storage.write(str(run / f"outputs/{refused.number:08d}/a.png"), b"a canary's")
    refused.void()
    refused.close("canary")
    for path in (run / "outputs").rglob("*.png"):
        os.utime(path, (0, 0))
    os.utime(run / "patches/00000001/deep/a.png.r0.png", (0, 0))
    shown = upkeep.prune(folder, snapshots=1)
    names = {Path(u).relative_to(run).as_posix() for u in shown.uris}
    assert names == {
        *("outputs/00000001/deep/a.png", "outputs/00000002/deep/a.png", "outputs/00000004/a.png"),
        "patches/00000001/deep/a.png.r0.png",
    }
    assert not shown.removed
    assert all(Path(u).exists() for u in shown.uris)
    assert len(upkeep.prune(folder, snapshots=2).uris) == 3
    assert upkeep.prune(folder, snapshots=1, dry_run=False).removed
    assert tree(run / "current") == {"deep/a.png": "a3", "deep/b.png": "b"}
    assert upkeep.check_outputs(folder) == (2, [])
    with pytest.raises(JobError, match="were pruned"):
        upkeep.roll_back(folder, 1)


def test_nothing_is_pruned_while_a_start_is_open(tmp_path: Path) -> None:
    folder = night(tmp_path / "run", {"a": "a"})
    start = starts.open_start(folder.uri, {})
    with pytest.raises(starts.RunInUse):
        upkeep.prune(folder, dry_run=False)
    start.close("done")


def test_a_run_that_published_nothing_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="published nothing yet"):
        export.export(str(tmp_path / "run"), str(tmp_path / "shop"))
    folder = night(tmp_path / "run", {"a": "a"})
    with pytest.raises(JobError, match="lie in each other"):
        export.export(folder.uri, str(tmp_path / "run/outputs"))
    assert list(export.file_list(folder.uri)) == [
        ("deep/a.png", str(tmp_path / "run/outputs/00000001/deep/a.png"), storage.sha256(b"a"))
    ]
