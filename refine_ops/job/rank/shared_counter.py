"""The counter of a launch, in the process group's store where there is one: whoever is free takes the next item."""

import itertools
import threading
from typing import TYPE_CHECKING, Protocol

from refine_ops.model.pretrained import pick_device

if TYPE_CHECKING:
    import torch

_KEY = "refine-ops/next"


class Counter(Protocol):
    """One rank's view of its launch; `take` is called by several threads."""

    @property
    def rank(self) -> int: ...

    def device(self, wanted: str) -> "torch.device":
        """This rank's device: its own GPU, or the CPU where there is none or it was asked for."""

    def take(self, count: int) -> int | None:
        """The next index below `count` that no rank has taken; None when all are taken."""

    def close(self) -> None: ...


class SoleCounter:
    """The counter of a rank that is the only one."""

    rank = 0

    def __init__(self) -> None:
        self._next = itertools.count()  # one C call per item: threads cannot come between

    def device(self, wanted: str) -> "torch.device":
        return pick_device(0, wanted, "model.device")

    def take(self, count: int) -> int | None:
        index = next(self._next)
        return index if index < count else None

    def close(self) -> None:
        pass


class SharedCounter:
    """The counter of several ranks. `take` costs about 30 us; a launch has a fresh store, so it counts from 0."""

    def __init__(self) -> None:
        # Here, not above: a sole rank needs no process group, and none of this where its refiner has no device.
        import torch
        import torch.distributed as dist
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available())
        if not dist.is_initialized():
            raise RuntimeError("a rank is started by torch's elastic agent (`refine_ops.job.elastic.run_elastic`)")
        self._store = dist.distributed_c10d._get_default_store()
        self._lock = threading.Lock()

    @property
    def rank(self) -> int:
        return int(self._state.process_index)

    def device(self, wanted: str) -> "torch.device":
        return pick_device(int(self._state.local_process_index), wanted, "model.device")

    def take(self, count: int) -> int | None:
        with self._lock:
            index = int(self._store.add(_KEY, 1)) - 1
        return index if index < count else None

    def close(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
