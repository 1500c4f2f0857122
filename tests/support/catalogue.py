"""A shop's catalogue that changes from night to night, its run folder, and what its manifest calls for.

The oracle refines with the chain itself, without a worker, a ledger or a plan.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.steps.batch import run_batch
from flows.steps.engine import Engine
from flows.steps.summary import RunSummary
from refine_ops import storage
from refine_ops.chain import refine_image
from refine_ops.config import CanaryLimits, RefineBatchConfig, RefineSettings
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Item
from tests.support.node import FAST, make_items
from tests.support.trivial_worker import TrivialRefiner

TOLERANT = CanaryLimits(max_dead=1.0, max_de00=50.0, max_shift_px=50.0, allow_unmeasured=True)


DEFAULT = RefineSettings(publish="all")
NONE: Mapping[str, RefineSettings] = {}
Pictures = dict[str, bytes]


class Catalogue:
    """A manifest that changes from night to night, its run folder, and the bytes that must be published."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.run = root, root / "run"
        self.manifest = make_items(root / "images", count)
        self.rows = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        self.refined = 0

    def night(self, on_pool: Callable[..., NodeVerdict] | None = None, **settings: object) -> RunSummary:
        self.manifest.write_text("\n".join(json.dumps(row) for row in self.rows))
        config = RefineBatchConfig.model_validate(
            {
                "manifest": str(self.manifest),
                "out": str(self.run),
                "worker": FAST,
                "lanes": "work-pool",
                "report_items": 0,
                "canary_limits": TOLERANT,
                "refine": DEFAULT,
                **settings,
            }
        )
        return run_batch(config, on_pool=on_pool or self._refine)

    def _refine(
        self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
    ) -> NodeVerdict:
        verdict = Node(folder, config, 1, module="tests.support.trivial_worker").run(todo)
        self.refined += len(todo.positions) - verdict.left
        return verdict

    def expected(self, settings: RefineSettings = DEFAULT, other: Mapping[str, RefineSettings] = NONE) -> Pictures:
        """What must be published; `other` has the settings of items, by id, that were refined under others."""
        items = [i for i in read_items(str(self.manifest)) if isinstance(i, Item)]
        return {
            i.output: refine_image(
                i, {i.image: storage.read(i.image)}, TrivialRefiner(), other.get(i.item_id, settings)
            ).data
            for i in items
            if i.regions[0].prompt != "raise"
        }

    def published(self) -> Pictures:
        return {p.name: p.read_bytes() for p in (self.run / "current").iterdir()}
