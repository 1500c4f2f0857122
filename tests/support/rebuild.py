"""Told from a journal of what was asked for alone: what must be published, byte for byte, and what work that took.

python -m tests.support.rebuild JOURNAL RUN

The journal has a line for every night (its manifest, its pictures by their hash, weights, how it ended) and for what
people did in between; beside it lie manifests, pictures, and what the device was given to do in each night. Of the run
folder only what is published is read, and of a night whose power went which outcomes had reached the ledger by then.
"""

import hashlib
import io
import json
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq

from refine_ops.chain import refine_image
from refine_ops.config import RefineSettings
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.night_rank import NightRefiner

SETTINGS = RefineSettings(publish="all")
Weights = tuple[tuple[str, ...], int]
"""Adapters in force, and the version of the pixel code."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks for: the item, whatever its row number and category, and its picture's hash."""

    item: Item
    picture: str


@dataclass(frozen=True, slots=True)
class Made:
    asked: Asked
    weights: Weights


@dataclass(slots=True)
class History:
    """What became of every item, told night after night; `apply` fails where the device did something needless."""

    folder: Path
    run: str
    made: dict[str, Made] = field(default_factory=dict)
    after: dict[int, dict[str, Made]] = field(default_factory=dict)
    rejected: dict[str, list[str]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    work: int = 0
    twice: int = 0
    nights: Counter[str] = field(default_factory=Counter)
    named: list[Asked] = field(default_factory=list)
    pictures: dict[Made, bytes] = field(default_factory=dict)
    store: Any = field(default_factory=lambda: boto3.client("s3"))
    hashes: dict[str, str] = field(default_factory=dict)

    def apply(self, event: dict[str, Any]) -> None:
        getattr(self, f"_{event.pop('kind')}")(**event)

    # -- what people did

    def _rolled_back(self, to: int) -> None:
        self.made = dict(self.after[to])
        self.after = {start: made for start, made in self.after.items() if start <= to}

    def _lost(self, item: str) -> None:
        # It is gone for every night that published it: no later roll-back brings it back.
        self.made.pop(item)
        self.after = {}

    def _reviewed(self, item: str, fingerprint: str, action: str) -> None:
        if action == "redo":
            self.rejected.setdefault(item, []).append(fingerprint)
        if action == "exclude":
            self.excluded[item] = fingerprint
        else:
            self.excluded.pop(item, None)

    # -- nights

    def _night(
        self, number: int, end: str, start: int | None, pictures: dict[str, str], weights: list[Any], redo: int
    ) -> None:
        now: Weights = (tuple(weights[0]), weights[1])
        todo = self._to_do(self._asked(number, pictures), now, redo)
        log = self.folder / f"device-{number}.log"
        done = Counter(log.read_text().splitlines()) if log.exists() else Counter()
        self.work += done.total()
        self.nights[end] += 1
        wanted = Counter(self._prompt(a) for a in todo)
        where = f"night {number}, {end}"
        assert not done - wanted, f"{where}: needless work: {done - wanted}"
        if end == "refused":
            assert not done, f"{where}: work for a night that was refused"
        elif end == "good":
            assert done == wanted, f"{where}: work left undone: {wanted - done}"
            self._take(todo, now)
        elif end == "killed":
            known = self._recorded(start)
            self._take([a for a in todo if a.item.item_id in known], now)
            self.twice += done.total() - sum(a.item.item_id in known for a in todo)
        if start is not None and end in ("good", "killed"):
            self.after[start] = dict(self.made)

    def _asked(self, number: int, pictures: dict[str, str]) -> list[Asked]:
        items = [i for i in read_items(str(self.folder / f"manifest-{number}.jsonl")) if isinstance(i, Item)]
        salted = [replace(i, row=0, category="", salt="+".join(self.rejected.get(i.item_id, []))) for i in items]
        self.named = [Asked(i, pictures[i.image]) for i in salted if i.item_id not in self.excluded]
        return self.named

    def _to_do(self, asked: list[Asked], now: Weights, redo: int) -> list[Asked]:
        new = [a for a in asked if a.item.item_id not in self.made or self.made[a.item.item_id].asked != a]
        older = [a for a in asked if a not in new and self.made[a.item.item_id].weights != now][:redo]
        return new + older

    def _take(self, asked: list[Asked], now: Weights) -> None:
        self.made |= {a.item.item_id: Made(a, now) for a in asked}

    @staticmethod
    def _prompt(asked: Asked) -> str:
        return asked.item.regions[0].prompt

    def _recorded(self, start: int | None) -> set[str]:
        """Items whose outcome of this start reached the ledger."""
        parts = [] if start is None else [k for k in self._keys("outcomes/") if f"/part-{start:08d}-" in k]
        tables = [pq.read_table(io.BytesIO(self._object(k)), columns=["item_id", "start", "status"]) for k in parts]
        rows = [row for table in tables for row in table.to_pylist()]
        return {row["item_id"] for row in rows if row["start"] == start and row["status"] == "done"}

    # -- what is there, and what must be

    def must_be(self) -> dict[str, str]:
        """SHA-256 by plain name, of the newest night's manifest."""
        return {a.item.output: hashlib.sha256(self._bytes(self.made[a.item.item_id])).hexdigest() for a in self.named}

    def published(self) -> dict[str, str]:
        """The same, of the objects that the newest snapshot names; an object is read once by one of these."""
        newest = max(self._keys("published/"))
        rows = pq.read_table(io.BytesIO(self._object(newest)), columns=["name", "object"]).to_pylist()
        prefix = self.run.removeprefix("s3://").partition("/")[2]
        for at in {row["object"] for row in rows} - self.hashes.keys():
            self.hashes[at] = hashlib.sha256(self._object(f"{prefix}/{at}")).hexdigest()
        return {row["name"]: self.hashes[row["object"]] for row in rows}

    def _bytes(self, made: Made) -> bytes:
        if made not in self.pictures:
            source = (self.folder / "pictures" / made.asked.picture).read_bytes()
            item, (adapters, pixels) = made.asked.item, made.weights
            refiner = NightRefiner(adapters, pixels)
            self.pictures[made] = refine_image(item, {item.image: source}, refiner, SETTINGS).data
        return self.pictures[made]

    def _keys(self, below: str) -> list[str]:
        bucket, _, prefix = self.run.removeprefix("s3://").partition("/")
        pages = self.store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{below}")
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def _object(self, key: str) -> bytes:
        bucket = self.run.removeprefix("s3://").partition("/")[0]
        data: bytes = self.store.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data


def main(journal: str, run: str) -> None:
    history = History(Path(journal).parent, run)
    for line in Path(journal).read_text().splitlines():
        history.apply(json.loads(line))
    wanted, found = history.must_be(), history.published()
    assert found == wanted, f"{len(set(wanted.items()) ^ set(found.items()))} names differ: {sorted(found)[:3]}"
    ends = ", ".join(f"{count} {end}" for end, count in history.nights.most_common())
    print(
        f"starts: {ends}; {len(found)} outputs as they must be; {history.work} regions refined, none needlessly "
        f"({history.twice} of them once more, as the power had gone before they were recorded)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
