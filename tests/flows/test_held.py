"""Held items from night to night: not published, not dead, not tried again, until a person or a new source says so.

The model is the trivial one; the judge in the ranks has no gate for it, so the fixed rules decide.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from flows.steps import batch
from flows.steps.batch import HoldBudgetExceeded, run_batch
from flows.steps.engine import Engine
from flows.steps.summary import RunSummary
from refine_ops import storage
from refine_ops.chain import refine_image
from refine_ops.config import RefineBatchConfig, RefineSettings
from refine_ops.job import published, upkeep
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import read_history, read_ledger
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.records import Item
from refine_ops.report.review import Decisions, apply_decisions
from tests.support.node import FAST
from tests.support.trivial_worker import TrivialRefiner

pytestmark = pytest.mark.processes

AS_MADE: dict[str, Any] = {"align": {"geometry": False, "tone": False}}
BOX = [40, 40, 72, 72]


class Shop:
    """A catalogue of photos, the prompt of each, and its run folder."""

    def __init__(self, root: Path, photo: np.ndarray, prompts: dict[str, str]) -> None:
        self.root, self.run, self.prompts, self.refined = root, root / "run", prompts, 0
        for n, name in enumerate(prompts):
            self.place(name, photo[20 + 30 * n : 140 + 30 * n, 200:320])

    def place(self, name: str, pixels: np.ndarray) -> None:
        Image.fromarray(np.ascontiguousarray(pixels)).save(self.root / f"{name}.png")

    @property
    def manifest(self) -> Path:
        return self.root / "m.jsonl"

    def night(self, refine: dict[str, Any] | None = None, **settings: Any) -> RunSummary:
        rows = [
            {"item_id": name, "image": f"{name}.png", "regions": [{"box": BOX, "prompt": word}]}
            for name, word in self.prompts.items()
        ]
        self.manifest.write_text("\n".join(map(json.dumps, rows)))
        given = {"manifest": str(self.manifest), "out": str(self.run), "worker": FAST, "lanes": "work-pool"}
        given |= {"report_items": 0, "refine": AS_MADE | (refine or {}), **settings}
        return run_batch(RefineBatchConfig.model_validate(given), on_pool=self._refine)

    def _refine(
        self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
    ) -> NodeVerdict:
        self.refined += len(todo.positions)
        model = config.refine.model.model_copy(update={"model": "of-which-nobody-has-a-gate"})
        config = config.model_copy(update={"refine": config.refine.model_copy(update={"model": model})})
        return Node(folder, config, 1, module="tests.support.trivial_worker").run(todo)

    def outcomes(self) -> dict[str, dict[str, Any]]:
        return {row["item_id"]: row for row in read_ledger(str(self.run / "outcomes")).to_pylist()}

    def current(self) -> dict[str, bytes]:
        return {p.stem: p.read_bytes() for p in (self.run / "current").iterdir()}

    def unjudged(self, name: str) -> bytes:
        """What the chain makes of an item when nobody judges."""
        (item,) = (i for i in read_items(str(self.manifest)) if isinstance(i, Item) and i.item_id == name)
        settings = RefineSettings.model_validate(AS_MADE)
        return refine_image(item, {item.image: storage.read(item.image)}, TrivialRefiner(), settings).data

    def decide(self, name: str, decision: str) -> None:
        row = self.outcomes()[name]
        entry = {"run": str(self.run), "item_id": name, "fingerprint": row["fingerprint"], "decision": decision}
        body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": [entry]}
        apply_decisions(str(self.run), Decisions.model_validate(body))


@pytest.fixture
def shop(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "published.log"))
    return Shop(tmp_path, photo, {"good": "Refine it", "bad": "soft", "broken": "nan", "fine": "Refine it"})


@pytest.mark.timeout(300)
def test_what_is_held_is_kept_for_a_person_whose_approval_publishes_it(shop: Shop) -> None:
    first = shop.night()
    assert (first.done, first.held, first.dead, first.held_now) == (2, 2, 0, 2)
    assert shop.current() == {name: shop.unjudged(name) for name in ("good", "fine")}
    rows = shop.outcomes()
    bad, broken = rows["bad"], rows["broken"]
    assert (bad["status"], bad["reason"], bad["object"]) == ("held", "judge.detail_lost", "")
    assert (broken["status"], broken["reason"], broken["candidate"]) == ("held", "judge.not_finite", "")
    assert bad["candidate"] == "held/00000001/bad.png"
    kept = (shop.run / bad["candidate"]).read_bytes()
    assert kept == shop.unjudged("bad")
    assert storage.sha256(kept) == bad["candidate_sha256"]
    text = (shop.run / "report" / "summary.md").read_text()
    assert "softer than before" in text
    assert "no numbers" in text
    assert "no gate was calibrated" not in text

    again = shop.night()
    assert (again.held, again.held_now, shop.refined) == (2, 0, 4), "a held item is not tried again"
    shop.decide("bad", "")
    shop.night()
    assert "bad" not in shop.current(), "a note is no approval"
    shop.decide("bad", "approve")
    shop.decide("broken", "approve")
    approved = shop.night()
    assert (approved.done, approved.held, shop.refined) == (3, 1, 4), "no model runs; nothing is kept of the other one"
    assert shop.current()["bad"] == kept
    assert shop.outcomes()["bad"]["regions"][0]["ruling"]["reason"] == "review.approved"
    assert upkeep.check_outputs(reopen_run(str(shop.run))[0]) == (3, [])
    shop.night()
    assert shop.current()["bad"] == kept


@pytest.mark.timeout(300)
def test_a_rejection_tries_other_seeds_and_prune_lets_go_of_what_it_replaces(shop: Shop) -> None:
    shop.night()
    before = shop.outcomes()["bad"]
    folder, _ = reopen_run(str(shop.run))
    assert upkeep.prune(folder, min_age_days=0, now=lambda: 4e9, dry_run=True).uris == ()
    shop.decide("bad", "reject")
    shop.night()
    after = shop.outcomes()["bad"]
    assert (shop.refined, after["status"]) == (5, "held")
    assert after["regions"][0]["seed"] != before["regions"][0]["seed"]
    gone = upkeep.prune(folder, min_age_days=0, now=lambda: 4e9, dry_run=False).uris
    assert [Path(uri).relative_to(shop.run).as_posix() for uri in gone] == [before["candidate"]]
    assert (shop.run / after["candidate"]).exists()


@pytest.mark.timeout(300)
def test_what_was_published_of_the_same_source_stays_while_its_next_try_is_held(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new model that is worse: what was accepted of the old one stays, until a person rejects it."""
    shop.night()
    before = shop.current()
    monkeypatch.setenv("REFINE_TEST_SOFT", "1")
    other = {"model": {"steps": 3}}
    summary = shop.night(other, on_new_fingerprint="redo")
    assert (summary.done, summary.held, shop.refined) == (0, 4, 8)
    assert shop.current() == before
    snapshot = published.newest(str(shop.run))
    assert snapshot is not None
    now = shop.outcomes()["good"]
    (then,) = (
        row
        for row in read_history(str(shop.run / "outcomes"), pa.array(["good"]), None).to_pylist()
        if row["status"] == "done"
    )
    _check_staying(snapshot.table, now, then)
    shop.night(other)
    assert (shop.current(), shop.refined) == (before, 8), "and so on, night after night"
    shop.decide("good", "reject")
    shop.night(other)
    assert set(shop.current()) == {"fine"}


def _check_staying(published_before: pa.Table, now: dict[str, Any], then: dict[str, Any]) -> None:
    def stays(now: dict[str, Any], then: dict[str, Any]) -> bool:
        found = published.staying(published_before, pa.Table.from_pylist([now]), pa.Table.from_pylist([then]))
        return bool(found.num_rows)

    now = {name: now[name] for name in ("item_id", "source_sha256", "request")}
    then = {name: then[name] for name in (*now, "object", "regions")}
    assert stays(now, then)
    assert not stays(now | {"source_sha256": "other"}, then), "it shows an older source"
    assert not stays(now | {"request": "other"}, then), "something else was asked for, or a person rejected it"
    assert not stays(now, then | {"object": "outputs/00000000/x.png"}), "it is not what was published"
    unjudged = [region | {"ruling": None} for region in then["regions"]]
    assert not stays(now, then | {"regions": unjudged}), "nobody ever judged it"


@pytest.mark.timeout(300)
def test_a_source_that_became_bad_ends_what_showed_the_old_one(shop: Shop, photo: np.ndarray) -> None:
    shop.night()
    shop.place("good", photo[200:320, 100:220])
    shop.prompts["good"] = "soft"
    assert shop.night().held == 3
    assert set(shop.current()) == {"fine"}


@pytest.mark.timeout(300)
def test_the_hold_budget_keeps_a_bad_night_back_and_a_copy_may_stand_for_what_is_held(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_GUARDED_FROM", 4)
    with pytest.raises(HoldBudgetExceeded, match="2 of 4 items of this start are held"):
        shop.night(hold_budget=0.4, held_output="source")
    assert published.newest(str(shop.run)) is None
    shop.night(hold_budget=0.4, held_output="source")
    expected = {name: shop.unjudged(name) for name in ("good", "fine")}
    expected |= {name: (shop.root / f"{name}.png").read_bytes() for name in ("bad", "broken")}
    assert shop.current() == expected
    assert shop.refined == 4
