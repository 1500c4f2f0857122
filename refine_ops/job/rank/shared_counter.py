"""The shared counter in the process group's store: whoever is free takes the next item."""

import threading

import torch
import torch.distributed as dist
from accelerate import PartialState

from refine_ops.model.pretrained import pick_device

_KEY = "refine-ops/next"


class SharedCounter:
    """One rank's view of its launch. `take` costs about 30 us; a launch has a fresh store, so it counts from 0."""

    def __init__(self) -> None:
        self._state = PartialState(cpu=not torch.cuda.is_available())
        if not dist.is_initialized():
            raise RuntimeError("a rank is started by torch's elastic agent (`refine_ops.job.elastic.run_elastic`)")
        self._store = dist.distributed_c10d._get_default_store()
        self._lock = threading.Lock()

    @property
    def rank(self) -> int:
        return int(self._state.process_index)

    def device(self, wanted: str) -> torch.device:
        """This rank's device: its own GPU, or the CPU where there is none or it was asked for."""
        return pick_device(int(self._state.local_process_index), wanted, "model.device")

    def take(self, count: int) -> int | None:
        """The next index below `count` that no rank has taken; None when all are taken."""
        with self._lock:
            index = int(self._store.add(_KEY, 1)) - 1
        return index if index < count else None

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
