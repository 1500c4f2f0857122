"""Two refiners as one: the reference itself where it fits, the network where it does not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from refine_ops.model.transfer import BUCKET, TransferRefiner, TransferWork
from refine_ops.records import Conditioning, Patch, ReferencePolicy, Refiner


class TransferFirst:
    """Implements `Refiner`: the network is not run for a region whose reference fits, but for its further candidates,
    which are asked for where that was not accepted."""

    reference: ReferencePolicy = "registered"

    def __init__(self, network: Refiner) -> None:
        self._network, self._transfer = network, TransferRefiner()

    @property
    def grid_px(self) -> int:
        return self._network.grid_px

    @property
    def focus_pixels(self) -> int:
        return self._network.focus_pixels

    @property
    def tile_zoom(self) -> float:
        return self._network.tile_zoom

    def batch_size(self, bucket: Any) -> int:
        """The network's; a transfer waits for nobody."""
        return 1 if bucket == BUCKET else self._network.batch_size(bucket)

    def prepare(self, item: Conditioning) -> Any:
        """
        Raises:
            ItemError: the network cannot be given this region.
        """
        if item.reference is not None and not item.candidate:
            return self._transfer.prepare(item)
        reference = item.given if self._network.reference == "as_given" else item.reference
        return self._network.prepare(replace(item, reference=reference))

    def refine_prepared(self, batch: Sequence[Any]) -> list[Patch]:
        """Works of any mixture, in their order."""
        network = [work for work in batch if not isinstance(work, TransferWork)]
        made = iter(self._network.refine_prepared(network)) if network else iter(())
        return [
            self._transfer.refine_prepared([work])[0] if isinstance(work, TransferWork) else next(made)
            for work in batch
        ]
