"""ImageNet trunks for LPIPS and VGG: safetensors in a folder, or torchvision's download where the hub is allowed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from refine_ops.errors import RefineError
from refine_ops.model.pretrained import load_tensors

Trunk = Literal["alexnet", "vgg16"]


class MissingWeights(RefineError):
    """No source has the weights: the metric is reported as missing with this message, not as a number."""


def load_trunk(name: Trunk, folder: str | None, allow_hub: bool) -> Mapping[str, torch.Tensor]:
    """Torchvision's state dict of `name`: `FOLDER/alexnet.safetensors`, or the hash-checked download.

    Raises:
        MissingWeights: neither is there.
        JobError: the file cannot be read as safetensors.
    """
    file = Path(folder) / f"{name}.safetensors" if folder else None
    if file is not None and file.is_file():
        return load_tensors(file, f"torchvision's {name}")
    if allow_hub:
        import torchvision

        state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
        return dict(state)
    raise MissingWeights(f"no weights: put {name}.safetensors into metrics.weights, or set metrics.allow_hub")
