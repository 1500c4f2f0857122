"""One item on its way through a rank: its inputs, its refinement, its clock, and the outcome it ends with."""

import hashlib
import json
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from refine_ops import storage
from refine_ops.chain import Finished, Refinement
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError
from refine_ops.image.source import MEDIA_SUFFIX
from refine_ops.job.planning.remaining import identity_from, identity_of, input_uris
from refine_ops.records import Item, Outcome, Patch


@dataclass(slots=True)
class Flight:
    """Mutable state of one item between being taken and its outcome.

    `work` is what the refiner prepared for the region whose turn it is; `held_bytes` is its share of the byte budget.
    """

    position: int
    replace: bool
    item: Item
    request: str
    identity: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    refinement: Refinement | None = None
    work: Any = None
    patches: dict[str, Patch] = field(default_factory=dict)
    model_size: tuple[int, int] = (0, 0)
    held_bytes: int = 0
    waiting_since: float = 0.0
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[step] = self.timings_s.get(step, 0.0) + time.perf_counter() - started

    def read_inputs(self, access: AccessSettings, max_bytes: int) -> dict[str, bytes]:
        """The bytes of image, masks and references by URI; fills `hashes` and `identity`.

        Raises:
            ItemError: an input is missing, unreadable, too large, or not allowed.
        """
        inputs, identities = {}, {}
        for uri in input_uris(self.item):
            storage.check_access(uri, access)
            inputs[uri], identities[uri] = storage.read_identified(uri, max_bytes)
            self.hashes[uri] = storage.sha256(inputs[uri])
        self.identity = identity_from(identities)
        return inputs

    def fingerprint(self, run: str) -> str:
        """Run fingerprint + request + hashes of all inputs: equal fingerprints give equal pixels."""
        text = json.dumps([run, self.request, sorted(self.hashes.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def output_name(self, finished: Finished) -> str:
        """Where the result goes below `outputs/`; where the format was changed, the suffix says so."""
        if finished.format == finished.source_format:
            return self.item.output
        return posixpath.splitext(self.item.output)[0] + MEDIA_SUFFIX[finished.format]

    def done(self, run: str, rank: int, finished: Finished) -> Outcome:
        return Outcome(
            **(self._common(run, rank) | {"output": self.output_name(finished)}),
            status="done",
            format=finished.format,
            width=finished.width,
            height=finished.height,
            output_sha256=storage.sha256(finished.data),
            output_bytes=len(finished.data),
            regions=finished.regions,
            verification=finished.verification,
        )

    def dead(self, run: str, rank: int, error: ItemError) -> Outcome:
        if not self.identity:
            self.identity = identity_of(self.item)
        return Outcome(**self._common(run, rank), status="dead", reason=error.reason, message=str(error))

    def _common(self, run: str, rank: int) -> dict[str, Any]:
        return {
            "item_id": self.item.item_id,
            "fingerprint": self.fingerprint(run),
            "request": self.request,
            "identity": self.identity,
            "category": self.item.category,
            "row": self.item.row,
            "image": self.item.image,
            "output": self.item.output,
            "source_sha256": self.hashes.get(self.item.image, ""),
            "timings_s": {step: round(seconds, 6) for step, seconds in self.timings_s.items()},
            "rank": rank,
            "finished_at": time.time(),
        }
