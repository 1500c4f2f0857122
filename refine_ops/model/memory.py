"""Out of device memory: step down per size, remember it, and never climb back within a run.

A run that has stepped down once keeps the smaller footprint for that size, so that its items stay comparable; every
patch records the step-down it was made with.
"""

import logging
from dataclasses import dataclass, field, replace

from refine_ops.errors import ItemError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Footprint:
    """How a batch is run: its fixed size, the VAE in tiles, idle networks on the host."""

    batch_size: int
    vae_tiling: bool = False
    offload: bool = False

    def smaller(self) -> "Footprint | None":
        """The next step down: half the batch, then VAE tiling, then offload; None at the bottom."""
        if self.batch_size > 1:
            return replace(self, batch_size=self.batch_size // 2)
        if not self.vae_tiling:
            return replace(self, vae_tiling=True)
        if not self.offload:
            return replace(self, offload=True)
        return None


@dataclass(slots=True)
class MemoryLadder:
    """The footprint in force for every `(width, height)`, starting from the planned batch size."""

    _footprints: dict[tuple[int, int], Footprint] = field(default_factory=dict)
    _planned: dict[tuple[int, int], int] = field(default_factory=dict)

    def footprint(self, size: tuple[int, int], planned: int) -> Footprint:
        """The footprint for `size`, `planned` items per batch unless memory has run out before."""
        self._planned.setdefault(size, planned)
        return self._footprints.setdefault(size, Footprint(planned))

    def step_down(self, size: tuple[int, int]) -> None:
        """Take the next smaller footprint for `size`.

        Raises:
            ItemError: `model.out_of_memory`, when one item does not fit at the smallest footprint.
        """
        smaller = self._footprints[size].smaller()
        if smaller is None:
            raise ItemError(
                "model.out_of_memory",
                f"a crop of {size[0]}x{size[1]} does not fit into device memory even alone, with VAE tiling and "
                "offloading; lower focus.focus_pixels or use a larger device",
            )
        self._footprints[size] = smaller
        logger.warning("out of device memory at %dx%d: going on with %s", *size, self.label(size))

    def label(self, size: tuple[int, int]) -> str:
        """What `Patch.step_down` records: `none`, or the steps taken, such as `batch 1, vae tiling`."""
        now, steps = self._footprints[size], []
        if now.batch_size != self._planned[size]:
            steps.append(f"batch {now.batch_size}")
        if now.vae_tiling:
            steps.append("vae tiling")
        if now.offload:
            steps.append("offload")
        return ", ".join(steps) or "none"
