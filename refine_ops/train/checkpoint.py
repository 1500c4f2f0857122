"""Checkpoints: a folder per step, complete or absent, in formats anybody can read.

    step-00000500/
      pytorch_lora_weights.safetensors   the adapter in fp32, loadable by diffusers and the refiner
      average.safetensors                its moving average, where one is kept
      optimizer.safetensors              `<number>.<name>` for every tensor of the optimizer's state
      state.json                         step, the optimizer's other values

No generator state is kept, for none is used: noise and order are functions of the step.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from refine_ops.adapters import WEIGHTS_NAME
from refine_ops.errors import JobError
from refine_ops.train.adapter import file_keys
from refine_ops.train.optimize import MovingAverage, Parameters, load_parameters, placed_like, whole

_STEP: Final = "step-"
_STATE: Final = "state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything a run needs to go on: tensors by parameter name, and the optimizer's `state_dict`."""

    step: int
    parameters: Mapping[str, torch.Tensor]
    average: Mapping[str, torch.Tensor] | None
    optimizer: Mapping[str, Any]


def take(step: int, parameters: Parameters, average: MovingAverage | None, optimizer: Any) -> TrainingState:
    """The state after `step`; where tensors are sharded, every rank must call it."""
    values = optimizer.state_dict()
    state = {
        number: {name: whole(v) if isinstance(v, torch.Tensor) else v for name, v in entries.items()}
        for number, entries in values["state"].items()
    }
    return TrainingState(
        step=step,
        parameters={name: whole(p.detach()) for name, p in parameters.items()},
        average=None if average is None else {name: whole(t) for name, t in average.values.items()},
        optimizer={**values, "state": state},
    )


def put_back(saved: TrainingState, parameters: Parameters, average: MovingAverage | None, optimizer: Any) -> None:
    """Load a state into live objects, sharded as they are."""
    load_parameters(parameters, saved.parameters)
    if average is not None and saved.average is not None:
        for name, tensor in average.values.items():
            tensor.copy_(placed_like(saved.average[name], tensor))
    live = list(parameters.values())
    state = {number: _placed_entries(entries, live[number]) for number, entries in saved.optimizer["state"].items()}
    optimizer.load_state_dict({**saved.optimizer, "state": state})


def save_checkpoint(folder: Path, saved: TrainingState, adapter: bytes, keep: int) -> Path:
    """Write `folder/step-...`, then remove all but the last `keep`; `adapter` is the fp32 file (`adapter_bytes`).

    Raises:
        JobError: the disk is full or the folder cannot be written.
    """
    final = folder / f"{_STEP}{saved.step:08d}"
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        (temporary / WEIGHTS_NAME).write_bytes(adapter)
        if saved.average is not None:
            save_file({name: _plain(t) for name, t in saved.average.items()}, temporary / "average.safetensors")
        tensors, values = _split(saved.optimizer)
        save_file(tensors, temporary / "optimizer.safetensors")
        state = {"step": saved.step, "optimizer": values}
        (temporary / _STATE).write_text(json.dumps(state, indent=1))
        _flush(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise JobError(f"cannot write the checkpoint {final}: {error}; free some space and run again") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{_STEP}*") if (path / _STATE).is_file())


def load_checkpoint(path: Path, names: list[str]) -> TrainingState:
    """Read a checkpoint of parameters `names` (the denoiser's).

    Raises:
        JobError: a file is missing or damaged, or the parameters are others.
    """
    try:
        state = json.loads((path / _STATE).read_text())
        stored = load_file(path / WEIGHTS_NAME)
        average_file = path / "average.safetensors"
        average = load_file(average_file) if average_file.exists() else None
        tensors = load_file(path / "optimizer.safetensors")
    except (OSError, ValueError, RuntimeError) as error:
        raise JobError(f"{path}: damaged checkpoint ({error}); remove it to go on from the one before") from error
    keys = {key: name for name, key in zip(names, file_keys(dict.fromkeys(names, torch.empty(0))), strict=True)}
    if keys.keys() != stored.keys():
        raise JobError(f"{path}: holds another adapter than the settings describe; use a new run folder")
    return TrainingState(
        step=state["step"],
        parameters={keys[key]: tensor for key, tensor in stored.items()},
        average=average,
        optimizer=_join(tensors, state["optimizer"]),
    )


def _split(optimizer: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A `state_dict` as flat tensors and JSON; its structure is PyTorch's documented one."""
    tensors, plain = {}, {}
    for number, entries in optimizer["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = _plain(value)
            else:
                plain[f"{number}.{name}"] = value
    return tensors, {"state": plain, "param_groups": optimizer["param_groups"]}


def _join(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *values["state"].items()):
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": values["param_groups"]}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").clone().contiguous()


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _placed_entries(entries: Mapping[str, Any], parameter: torch.Tensor) -> dict[str, Any]:
    return {
        name: placed_like(value, parameter.detach())
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        else value
        for name, value in entries.items()
    }
