"""Opening other people's models, by one rule: a folder here, or a hub name.

A hub name is looked up in this machine's cache and downloaded only where the user allowed it. Weights are safetensors,
no code of a checkpoint is run. Torch is imported by what needs it: a name is looked up without.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from refine_ops.config import hub_token
from refine_ops.errors import JobError

if TYPE_CHECKING:
    import torch

_NOT_HERE: Final = (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError)
_CONFIGURATIONS: Final = ("config.json", "model_index.json")


def is_here(model: str) -> bool:
    """Whether `model` is a folder, or a hub name whose configuration is in this machine's cache."""
    if os.path.isdir(model):
        return True
    try:
        return any(isinstance(try_to_load_from_cache(model, name), str) for name in _CONFIGURATIONS)
    except HFValidationError:
        return False


def folder_of(model: str, allow_hub: bool, patterns: Sequence[str]) -> Path:
    """The folder of a pipeline, `patterns` of its files if it comes from the hub.

    Raises:
        JobError: it is not on this machine, or cannot be downloaded; the message says what to do.
    """
    if os.path.isdir(model):
        return Path(model)
    try:
        return Path(
            snapshot_download(
                model, local_files_only=not allow_hub, allow_patterns=list(patterns), token=_token(allow_hub)
            )
        )
    except _NOT_HERE as error:
        raise JobError(f"model {model!r} {_remedy(allow_hub)}: {error}") from error


def file_of(repo: str, name: str, allow_hub: bool, what: str) -> Path:
    """One file of a hub repository. Raises JobError as `folder_of`; `what` is the file's kind in the message."""
    try:
        return Path(hf_hub_download(repo, name, local_files_only=not allow_hub, token=_token(allow_hub)))
    except _NOT_HERE as error:
        raise JobError(f"{what} {repo}/{name} {_remedy(allow_hub)}: {error}") from error


def load(cls: Any, model: str, allow_hub: bool, *, weights: bool = False, half: bool = True, **options: Any) -> Any:
    """`cls.from_pretrained(model)` of transformers or diffusers.

    Args:
        weights: There are weights to load: in bfloat16 on a GPU machine with `half`, else in float32.
        options: Passed on.

    Raises:
        JobError: the model is not here and may not be downloaded, or it cannot be opened.
    """
    if not (allow_hub or is_here(model)):
        raise JobError(f"model {model!r}: no such folder; give a local checkpoint, or set allow_hub for a hub name")
    if weights:
        import torch

        dtype = torch.bfloat16 if half and torch.cuda.is_available() else torch.float32
        options = {"use_safetensors": True, "dtype": dtype, **options}
    try:
        return cls.from_pretrained(
            model, local_files_only=not allow_hub, token=_token(allow_hub), trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError) as e:
        raise JobError(f"model {model!r} cannot be opened as {cls.__name__}: {e}") from e


def load_tensors(file: Path, expected: str) -> Mapping[str, "torch.Tensor"]:
    """All tensors of a safetensors file; `expected` says in the message what it should hold.

    Raises:
        JobError: it cannot be read as safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as e:
        raise JobError(f"{file}: {e}; expected {expected} saved as safetensors") from e
    return tensors


def transformers_class(name: str) -> Any:
    """A class of transformers, imported when the stage is used: its import takes seconds that no other stage owes."""
    import transformers

    return getattr(transformers, name)


def pick_device(rank: int = 0, wanted: str = "auto", setting: str = "device") -> "torch.device":
    """The rank's GPU, in turn, or the CPU where there is none or it is `wanted`.

    Raises:
        JobError: 'cuda' is wanted (by the setting named) and there is no GPU.
    """
    import torch

    count = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cuda" and not count:
        raise JobError(f"{setting} is 'cuda' but no CUDA device is there; use 'auto' or 'cpu'")
    return torch.device("cuda", rank % count) if count else torch.device("cpu")


def _token(allow_hub: bool) -> str | None:
    return hub_token() if allow_hub else None


def _remedy(allow_hub: bool) -> str:
    if allow_hub:
        return "could not be downloaded; check the name, the network and the free disk space"
    return "is not on this machine; set allow_hub (--allow-hub) to download it, or give a local folder"
