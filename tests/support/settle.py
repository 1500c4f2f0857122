"""What is there after a fault, counted and held against the chain itself: `refine_image`, without a worker."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refine_ops import storage
from refine_ops.chain import refine_image
from refine_ops.config import RefineBatchConfig
from refine_ops.job import published as published_set
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.trivial_worker import TrivialRefiner


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One injected fault, what is promised, and what was counted after the last start."""

    fault: str
    promise: str
    items: int
    done: int
    dead: int
    lost: int
    duplicated: int


AddRow = Callable[[FaultRow], None]


def settle(
    table: AddRow, config: RefineBatchConfig, published: Path, fault: str, promise: str, dead: dict[str, str]
) -> None:
    """Add the row, and hold what is there against the oracle. `dead` is reason by item."""
    items = [item for item in read_items(config.manifest) if isinstance(item, Item)]
    ledger = read_ledger(storage.join(config.out, "outcomes"))
    outcomes = dict(zip(ledger["item_id"].to_pylist(), ledger["reason"].to_pylist(), strict=True))
    versions = defaultdict(set)
    for line in published.read_text().splitlines():
        uri, digest = line.split()
        versions[uri].add(digest)
    lost = [item.item_id for item in items if item.item_id not in outcomes]
    twice = [uri for uri, digests in versions.items() if len(digests) > 1]
    died = {item_id: reason for item_id, reason in outcomes.items() if reason}
    table(FaultRow(fault, promise, len(items), len(outcomes) - len(died), len(died), len(lost), len(twice)))
    assert not lost
    assert not twice
    assert died == dead
    snapshot = published_set.newest(config.out)
    assert snapshot is not None
    objects = snapshot.objects()
    for item in items:
        if item.item_id in died:
            assert item.output not in objects, "a dead item may be used"
        else:
            inputs = {item.image: storage.read(item.image)}
            expected = refine_image(item, inputs, TrivialRefiner(), config.refine)
            assert storage.read(storage.join(config.out, objects[item.output])) == expected.data, (
                f"{item.item_id}: other bytes than a quiet run's"
            )
