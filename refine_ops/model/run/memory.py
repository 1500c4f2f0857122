"""Out of device memory: step down per size, remember it, and never climb back within a run.

A run that has stepped down once keeps the smaller footprint for that size, so that its items stay comparable; every
patch records the step-down it was made with.
"""

import itertools
import logging
from dataclasses import dataclass, field, replace

import torch

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


class Resident:
    """A network that makes room on the device while others work, and comes back when it is asked for.

    Its weights never change, so the host keeps one copy (pinned, on a CUDA device): leaving copies nothing.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self._network, self._device = network, device
        self._host: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._away = False

    def leave(self) -> None:
        """Free the device's memory."""
        if self._host is None:
            tensors = itertools.chain(self._network.parameters(), self._network.buffers())
            self._host = [(tensor, _on_host(tensor)) for tensor in tensors]
        for tensor, copy in self._host:
            tensor.data = copy
        self._away = True
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def here(self) -> None:
        """Be on the device."""
        if self._away:
            for tensor, copy in self._host or ():
                tensor.data = copy.to(self._device, non_blocking=True)
            self._away = False


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.detach().to("cpu", copy=True)
    return copy.pin_memory() if tensor.is_cuda else copy


Work = tuple[tuple[int, int], int]
"""Crop size `(width, height)` in px, and the items that a batch of such work was planned to hold."""


@dataclass(slots=True)
class MemoryLadder:
    """The footprint in force for every kind of work, starting from the planned batch size."""

    _footprints: dict[Work, Footprint] = field(default_factory=dict)

    def footprint(self, work: Work) -> Footprint:
        """The planned items per batch unless memory has run out before."""
        return self._footprints.setdefault(work, Footprint(work[1]))

    def step_down(self, work: Work) -> None:
        """Take the next smaller footprint for `work`.

        Raises:
            ItemError: `model.out_of_memory`, when one item does not fit at the smallest footprint.
        """
        size = work[0]
        smaller = self._footprints[work].smaller()
        if smaller is None:
            raise ItemError(
                "model.out_of_memory",
                f"a crop of {size[0]}x{size[1]} does not fit into device memory even alone, with VAE tiling and "
                "offloading; lower focus.focus_pixels or use a larger device",
            )
        self._footprints[work] = smaller
        logger.warning("out of device memory at %dx%d: going on with %s", *size, self.label(work))

    def label(self, work: Work) -> str:
        """What `Patch.step_down` records: `none`, or the steps taken, such as `batch 1, vae tiling`."""
        now, steps = self._footprints[work], []
        if now.batch_size != work[1]:
            steps.append(f"batch {now.batch_size}")
        if now.vae_tiling:
            steps.append("vae tiling")
        if now.offload:
            steps.append("offload")
        return ", ".join(steps) or "none"
