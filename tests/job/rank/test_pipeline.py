"""What a rank's pipeline leaves: outcomes that say what was read, when it was tried, and where the output is."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refine_ops import storage
from refine_ops.config import AccessSettings, RefineSettings, WorkerSettings
from refine_ops.errors import ItemError
from refine_ops.job.ledger import LedgerWriter, read_ledger
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.rank.pipeline import Pipeline
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Journal, Scratch, Spec
from refine_ops.judge.judge import Judge
from refine_ops.records import Conditioning, Patch
from tests.support.node import FIXED_RULES, make_items
from tests.support.trivial_worker import TrivialRefiner, TrivialWork


class Tiling(TrivialRefiner):
    """Sees regions at four times their size, so that each takes several tiles; the power goes at a call of its own."""

    tile_zoom = 4.0

    def __init__(self, fails_at: int = 0) -> None:
        self.calls, self.fails_at = 0, fails_at

    def refine_prepared(self, batch: Sequence[TrivialWork]) -> list[Patch]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise Gone
        return super().refine_prepared(batch)


class Gone(BaseException):
    """Nothing of the process is left."""


def refine(
    tmp_path: Path,
    manifest: Path,
    assignments: Iterable[Assignment],
    refiner: TrivialRefiner | None = None,
    judge: Judge | None = None,
    **spec: object,
) -> dict[str, dict]:
    """Outcomes by item, after a pipeline with the trivial refiner has taken every assignment."""
    folder = RunFolder(str(tmp_path / "run"), "fingerprint", start=1)
    make_plan(str(manifest), folder.uri, access=AccessSettings())
    left = iter(assignments)
    ledger = LedgerWriter(folder.outcomes, "test")
    given = {"refine": RefineSettings(), "keep_patches": "none", **spec}
    pipeline = Pipeline(
        spec=Spec(folder.uri, "fingerprint", 1, worker=WorkerSettings(), access=AccessSettings(), solo=False, **given),
        folder=folder,
        plan=PlanReader(folder.plan),
        take=lambda: next(left, None),
        refiner=refiner or TrivialRefiner(),
        device_works=lambda: True,
        ledger=ledger,
        journal=Journal(Scratch(tmp_path / "scratch"), 0),
        rank=0,
        judge=judge,
    )
    pipeline.run()
    ledger.flush()
    assert Scratch(tmp_path / "scratch").in_flight() == []
    return {row["item_id"]: row for row in read_ledger(folder.outcomes).to_pylist()}


def test_an_outcome_tells_what_was_read_and_how_often_it_was_tried(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 3)
    (tmp_path / "images" / "0002.png").write_bytes(b"no picture")
    found = refine(tmp_path, manifest, [Assignment(0), Assignment(1, earlier_attempts=1), Assignment(2)])
    for name, number in (("item-0000", 1), ("item-0001", 2), ("item-0002", 1)):
        source = tmp_path / "images" / f"{name[-4:]}.png"
        row = found[name]
        assert row["source_bytes"] == source.stat().st_size
        assert row["source_sha256"] == storage.sha256(source.read_bytes())
        assert row["attempts"] == number
    assert found["item-0002"]["status"] == "dead"
    output = (tmp_path / "run" / "outputs/00000001/item-0000.png").read_bytes()
    assert found["item-0000"]["object"] == "outputs/00000001/item-0000.png"
    assert (found["item-0000"]["output_sha256"], found["item-0000"]["output_bytes"]) == (
        *(storage.sha256(output), len(output)),
    )


@pytest.mark.parametrize(("keep", "kept"), [("none", 0), ("all", 2)])
def test_raw_patches_are_kept_where_asked_for(tmp_path: Path, keep: str, kept: int) -> None:
    manifest = make_items(tmp_path / "images", 2)
    refine(tmp_path, manifest, map(Assignment, range(2)), keep_patches=keep)
    assert len(list((tmp_path / "run").glob("patches/00000001/*.png"))) == kept


def test_an_output_is_never_written_over(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 2)
    outputs = tmp_path / "run" / "outputs/00000001"
    outputs.mkdir(parents=True)
    (outputs / "item-0000.png").write_bytes(b"an earlier output")
    found = refine(tmp_path, manifest, [Assignment(0), Assignment(1)])
    assert found["item-0000"]["reason"] == "output.conflict"
    assert (outputs / "item-0000.png").read_bytes() == b"an earlier output"
    assert found["item-0001"]["output_sha256"] == storage.sha256((outputs / "item-0001.png").read_bytes())


def test_a_region_of_many_tiles_has_the_same_bytes_in_company_and_after_a_death_in_its_middle(tmp_path: Path) -> None:
    manifest = make_items(tmp_path / "images", 4)
    together = refine(tmp_path / "a", manifest, map(Assignment, range(4)), Tiling())
    tiles = together["item-0003"]["regions"][0]["tiles"]
    assert tiles > 3
    with pytest.raises(Gone):
        refine(tmp_path / "b", manifest, [Assignment(3)], Tiling(fails_at=3))
    assert not list((tmp_path / "b" / "run").glob("outputs/*/*.png"))
    (tmp_path / "b" / "scratch").rename(tmp_path / "b" / "gone")
    again = Tiling()
    redone = refine(tmp_path / "b", manifest, [Assignment(3, earlier_attempts=1)], again)
    assert again.calls == tiles
    assert redone["item-0003"]["output_sha256"] == together["item-0003"]["output_sha256"]


class Numb(TrivialRefiner):
    """Fails a whole batch, as the real one does, where one region of it came out as no numbers."""

    def refine_prepared(self, batch: Sequence[TrivialWork]) -> list[Patch]:
        if any(work.item.prompt == "nan" for work in batch):
            raise ItemError("model.not_finite", "the model produced values that are not finite")
        return super().refine_prepared(batch)


@pytest.mark.parametrize("judged", [True, False])
def test_values_that_are_no_numbers_hold_an_item_and_leave_its_batch_alone(tmp_path: Path, judged: bool) -> None:
    manifest = make_items(tmp_path / "images", 5, {2: "nan"})
    found = refine(
        tmp_path, manifest, map(Assignment, range(5)), Numb(), Judge() if judged else None, refine=FIXED_RULES
    )
    bad = found.pop("item-0002")
    expected = ("held", "judge.not_finite") if judged else ("dead", "model.not_finite")
    assert (bad["status"], bad["reason"]) == expected
    assert {row["status"] for row in found.values()} <= {"done", "held"}
    assert not any(row["reason"] == "judge.not_finite" for row in found.values())


def test_candidates_take_further_turns_and_the_patch_of_the_one_taken_is_kept(tmp_path: Path) -> None:
    """The first two of each region come out as no numbers, the third is what is there to be judged."""

    class Third(TrivialRefiner):
        def _patch(self, item: Conditioning) -> Patch:
            return super()._patch(item if item.candidate == 2 else replace(item, prompt="nan"))

    manifest = make_items(tmp_path / "images", 6)
    settings = FIXED_RULES.model_copy(update={"candidates": 4})
    found = refine(tmp_path, manifest, map(Assignment, range(6)), Third(), Judge(), refine=settings, keep_patches="all")
    for row in found.values():
        (region,) = row["regions"]
        assert region["taken"] == 2
        assert region["candidates"] == (3 if row["status"] == "done" else 4)
        at = (row["object"] or row["candidate"]).partition("/")[2]
        with Image.open(tmp_path / "run" / "patches" / f"{at}.0.png") as kept:
            assert np.asarray(kept).std() > 0
        assert {step for step, _ in row["timings_s"]} >= {"judge", "paste", "refine", "encode", "verify"}
