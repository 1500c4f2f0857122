"""What a run must carry over a break: gathered from the live objects, and put back into them."""

from collections.abc import Mapping
from typing import Any

import torch

from refine_ops.train.checkpoint import Snapshot
from refine_ops.train.optimize import MovingAverage, Parameters, load_parameters, placed_like, whole


def take(step: int, parameters: Parameters, average: MovingAverage | None, optimizer: Any) -> Snapshot:
    """A snapshot after `step`; where tensors are sharded, every rank must call it."""
    values = optimizer.state_dict()
    state = {
        number: {name: whole(v) if isinstance(v, torch.Tensor) else v for name, v in entries.items()}
        for number, entries in values["state"].items()
    }
    return Snapshot(
        step=step,
        parameters={name: whole(p.detach()) for name, p in parameters.items()},
        average=None if average is None else {name: whole(t) for name, t in average.values.items()},
        optimizer={**values, "state": state},
    )


def put_back(snapshot: Snapshot, parameters: Parameters, average: MovingAverage | None, optimizer: Any) -> None:
    """Load a snapshot into live objects, sharded as they are."""
    load_parameters(parameters, snapshot.parameters)
    if average is not None and snapshot.average is not None:
        for name, tensor in average.values.items():
            tensor.copy_(placed_like(snapshot.average[name], tensor))
    live = list(parameters.values())
    state = {number: _placed(entries, live[number]) for number, entries in snapshot.optimizer["state"].items()}
    optimizer.load_state_dict({**snapshot.optimizer, "state": state})


def _placed(entries: Mapping[str, Any], parameter: torch.Tensor) -> dict[str, Any]:
    return {
        name: placed_like(value, parameter.detach())
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        else value
        for name, value in entries.items()
    }
