"""Nights drawn at random over one run folder: rows come, change, move and go, ids are renamed, files are touched and
replaced, settings change under both policies, starts are killed, refused by their canary, rolled back, and begun twice.

After every night the published set must equal, byte for byte, what a simulation of the manifests' history calls for,
and the device must have done what that calls for and nothing else.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from refine_ops import storage
from refine_ops.chain import refine_image
from refine_ops.config import CanaryLimits, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.job import published, starts, upkeep
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.records import Item
from refine_ops.report.review import Decision, Decisions, apply_decisions, read_review
from tests.support.catalogue import Catalogue, Pictures
from tests.support.trivial_worker import TrivialRefiner

pytestmark = pytest.mark.processes

Made = tuple[str, int]
"""What an item was made of: its row and its picture, and under which of the settings."""
SETTINGS = tuple(RefineSettings.model_validate({"publish": "all", "paste": {"blur_px": size}}) for size in (11, 15, 9))
STRICT = CanaryLimits(max_dead=0.0, max_de00=50.0, max_shift_px=50.0, allow_unmeasured=True)


class Shop(Catalogue):
    """The catalogue, and what must have become of it: kept from what was asked, never from what the run folder says."""

    def __init__(self, root: Path, count: int, seed: int) -> None:
        super().__init__(root, count)
        self.rng = random.Random(seed)
        self.now = 0
        self.made: dict[str, Made] = {}
        self.after: dict[int, dict[str, Made]] = {}
        self.work = 0
        self.told: list[str] = []
        self.settled = True

    # -- what a row asks for

    def items(self) -> list[Item]:
        self.manifest.write_text("\n".join(json.dumps(row) for row in self.rows))
        salts = read_review(str(self.run)).salts
        items = [i for i in read_items(str(self.manifest)) if isinstance(i, Item)]
        return [replace(i, salt=salts.get(i.item_id, "")) for i in items]

    def asked(self, item: Item) -> str:
        return repr((replace(item, row=0, category=""), storage.sha256(storage.read(item.image))))

    def to_do(self, redo: int = 0) -> list[Item]:
        items = self.items()
        new = [i for i in items if self.made.get(i.item_id, ("", 0))[0] != self.asked(i)]
        older = [i for i in items if i not in new and self.made[i.item_id][1] != self.now][:redo]
        return [i for i in items if i in new or i in older]

    def take(self, items: list[Item]) -> None:
        """They are refined now, under the present settings."""
        self.work += len(items)
        self.made |= {i.item_id: (self.asked(i), self.now) for i in items}

    def must_be(self) -> Pictures:
        return {
            i.output: refine_image(
                i, {i.image: storage.read(i.image)}, TrivialRefiner(), SETTINGS[self.made[i.item_id][1]]
            ).data
            for i in self.items()
        }

    # -- a night

    def run_night(self, on_pool: Callable[..., NodeVerdict] | None = None, **settings: object) -> None:
        refine = SETTINGS[self.now].model_dump()
        given = {"on_new_fingerprint": "new-work", "max_removed": 1.0, "max_redone": 1.0, **settings}
        self.night(on_pool, refine=refine, **given)

    def good(self, redo: int = 0, **settings: object) -> None:
        """A night that ends well: what it must publish, and what it must have done for it."""
        todo = self.to_do(redo)
        self.run_night(**settings)
        self.take(todo)
        newest = published.newest(str(self.run))
        assert newest is not None
        self.after[newest.start] = dict(self.made)
        assert self.refined == self.work, f"{self.told[-3:]}: needless work, or work left undone"
        assert self.published() == self.must_be(), self.told[-3:]
        self.settled = True

    def bad(self, error: type[BaseException], **settings: object) -> None:
        """A night that fails publishes nothing."""
        before = self.published()
        with pytest.raises(error):
            self.run_night(**settings)
        assert self.published() == before

    # -- what happens

    def row(self) -> dict:  # type: ignore[type-arg]
        return self.rng.choice(self.rows)

    def new_box(self, row: dict) -> None:  # type: ignore[type-arg]
        x = self.rng.randrange(2, 14)
        row["regions"][0]["box"] = [x, self.rng.randrange(2, 10), x + self.rng.randrange(12, 30), 40]

    def rows_come(self) -> None:
        for _ in range(2):
            number = 1000 + len(list((self.root / "images").glob("*.png")))
            shutil.copy(self.root / "images" / self.row()["image"], self.root / f"images/{number}.png")
            region = {"box": [5, 5, 30, 30], "prompt": "Refine it"}
            self.rows.append({"item_id": f"item-{number}", "image": f"{number}.png", "regions": [region]})

    def rows_change(self) -> None:
        for _ in range(3):
            self.new_box(self.row())

    def rows_move(self) -> None:
        self.rng.shuffle(self.rows)

    def rows_go(self) -> None:
        for _ in range(min(2, len(self.rows) - 8)):
            self.rows.remove(self.row())

    def an_id_is_renamed(self) -> None:
        row = self.row()
        row["output"] = row.get("output", f"{row['item_id']}.png")
        row["item_id"] = f"renamed-{len(self.told)}"

    def a_picture_is_taken_anew(self) -> None:
        other, taken = self.rng.sample([self.root / "images" / row["image"] for row in self.rows], 2)
        shutil.copy(other, taken)

    def files_are_touched(self) -> None:
        for row in self.rows:
            os.utime(self.root / "images" / row["image"], (len(self.told), len(self.told)))

    def a_category_is_renamed(self) -> None:
        for row in self.rows:
            row["category"] = f"season-{len(self.told)}"

    def a_reviewer_rejects(self) -> None:
        row = self.row()
        known = read_ledger(str(self.run / "outcomes"), ["fingerprint", "status"])
        found = dict(zip(known["item_id"].to_pylist(), known["fingerprint"].to_pylist(), strict=True))
        if row["item_id"] in found:
            decision = Decision(
                run=str(self.run), item_id=row["item_id"], fingerprint=found[row["item_id"]], decision="reject"
            )
            apply_decisions(
                str(self.run), Decisions(schema="refine-ops/decisions/1", report="r", decisions=(decision,))
            )

    def an_adapter_is_promoted(self) -> None:
        self.now = (self.now + 1) % len(SETTINGS)
        if self.settled:
            self.bad(JobError, on_new_fingerprint="refuse")
        self.good()

    def an_upgrade_is_rolled_out(self) -> None:
        self.now = (self.now + 1) % len(SETTINGS)
        self.rows_change()
        self.good(redo=5, on_new_fingerprint="redo", max_new=5)

    def power_goes(self) -> None:
        for _ in range(4):
            self.new_box(self.row())
        half = self.to_do()[:2]

        def killed(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, *_: object) -> NodeVerdict:
            some = Remaining(todo.positions[: len(half)], 0, 0)
            Node(folder, config, 1, module="tests.support.trivial_worker").run(some)
            raise KeyboardInterrupt

        self.bad(KeyboardInterrupt, on_pool=killed)
        self.refined += len(half)
        self.take(half)

    def the_canary_is_refused(self) -> None:
        row, other = self.rows[0], self.rows[1]
        before = row["regions"][0]["prompt"]
        row["regions"][0]["prompt"] = "raise"
        self.new_box(other)
        done = self.refined
        self.bad(JobError, canary=99, canary_limits=STRICT)
        self.refined = done  # void: what it refined is to be refined again, or not at all
        row["regions"][0]["prompt"] = before

    def pictures_are_rolled_back(self) -> None:
        kept = sorted(self.after)[-3:-1]
        if kept:
            upkeep.roll_back(reopen_run(str(self.run))[0], to=kept[0])
            self.made = dict(self.after[kept[0]])
            self.settled = False  # the settings of then are the folder's again, whichever they were
            self.after = {start: made for start, made in self.after.items() if start <= kept[0]}

    def two_begin_at_once(self) -> None:
        other = starts.open_start(str(self.run), {})
        self.bad(starts.RunInUse)
        other.close("done")

    def the_export_is_broken(self) -> None:
        rows, self.rows = self.rows, []
        self.bad(JobError)
        self.rows = rows

    def a_file_is_lost(self) -> None:
        newest = published.newest(str(self.run))
        assert newest is not None
        item, at = self.rng.choice(newest.table.select(["item_id", "object"]).to_pylist()).values()
        (self.run / at).unlink()
        assert len(upkeep.check_outputs(reopen_run(str(self.run))[0])[1]) == 1
        self.made.pop(item)
        self.after = {}


EVENTS = (
    *(Shop.rows_come, Shop.rows_change, Shop.rows_move, Shop.rows_go, Shop.an_id_is_renamed),
    *(Shop.a_picture_is_taken_anew, Shop.files_are_touched, Shop.a_category_is_renamed, Shop.a_reviewer_rejects),
    *(Shop.an_adapter_is_promoted, Shop.an_upgrade_is_rolled_out, Shop.power_goes, Shop.the_canary_is_refused),
    *(Shop.pictures_are_rolled_back, Shop.two_begin_at_once, Shop.the_export_is_broken, Shop.a_file_is_lost),
)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("nights", "seed"), [(6, 1), pytest.param(60, 2, marks=pytest.mark.slow)], ids=["a week", "sixty nights"]
)
def test_nights_at_random(nights: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "written.log"))
    shop = Shop(tmp_path, 16, seed)
    clock, away = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: clock() + away[0])
    shop.good()
    left = list(EVENTS)
    shop.rng.shuffle(left)
    for night in range(nights):
        away[0] = shop.rng.uniform(-3600, 3600)  # another machine, whose clock is an hour off
        left = left or shop.rng.sample(EVENTS, len(EVENTS))
        for event in [left.pop() for _ in range(min(len(left), 3))]:
            shop.told.append(f"{night}: {event.__name__}")
            event(shop)
        shop.good()
    print(f"{nights} nights, {len(shop.told)} events, {shop.work} refined, {len(shop.rows)} rows at the end")
