"""Opening checkpoints of transformers and diffusers: local files unless the user allowed the hub, safetensors only."""

import os
from typing import Any

import torch

from refine_ops.config import hub_token
from refine_ops.errors import JobError


def pick_device(rank: int = 0) -> torch.device:
    """The rank's GPU, in turn, or the CPU."""
    count = torch.cuda.device_count()
    return torch.device("cuda", rank % count) if count else torch.device("cpu")


def transformers_class(name: str) -> Any:
    """A class of transformers, imported when the stage is used: its import takes seconds that no other stage owes."""
    import transformers

    return getattr(transformers, name)


def load(cls: Any, model: str, allow_hub: bool, *, weights: bool = False, half: bool = True) -> Any:
    """`cls.from_pretrained(model)`; weights in bfloat16 on a GPU machine with `half`, else in float32.

    Raises:
        JobError: the folder is absent or incomplete, or a hub name is given without `allow_hub`.
    """
    if not allow_hub and not os.path.isdir(model):
        raise JobError(f"model {model!r}: no such folder; give a local checkpoint, or set allow_hub for a hub name")
    options: dict[str, Any] = {}
    if weights:
        dtype = torch.bfloat16 if half and torch.cuda.is_available() else torch.float32
        options = {"use_safetensors": True, "dtype": dtype}
    try:
        return cls.from_pretrained(
            model,
            local_files_only=not allow_hub,
            token=hub_token() if allow_hub else None,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError) as e:
        raise JobError(f"model {model!r} cannot be opened as {cls.__name__}: {e}") from e
