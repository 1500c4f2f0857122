"""Small random models of the real classes, and crops to give them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.load import Networks
from refine_ops.model.presets import Preset, apply_overrides
from refine_ops.model.refiner import StagedRefiner, build_refiner
from refine_ops.records import Conditioning

CPU = torch.device("cpu")

MakeRefiner = Callable[..., StagedRefiner]
MakeItem = Callable[..., Conditioning]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers' layout with a random model; its config sets zero_cond_t, as 2511's does."""
    folder = tmp_path_factory.mktemp("model") / "random"
    random_pipeline(seed=3, zero_cond_t=True).save_pretrained(folder)
    return folder


@pytest.fixture
def make_refiner() -> MakeRefiner:
    """A refiner over a fresh copy of the random model: `make_refiner(focus_pixels=..., steps=..., speed=...)`.

    Keywords go to the settings where they exist there, else to the preset.
    """

    def make(
        zero_cond_t: bool = True, pipeline: Any = None, device: torch.device = CPU, **options: Any
    ) -> StagedRefiner:
        options = {"steps": 2, "true_cfg_scale": 1.0, "vlm_pixels": 64 * 64, **options}
        settings = ModelSettings(**{key: value for key, value in options.items() if key in ModelSettings.model_fields})
        rest = {key: value for key, value in options.items() if key not in ModelSettings.model_fields}
        preset = apply_overrides(Preset(source="random", **rest), settings)
        pipeline = pipeline or random_pipeline(seed=3, zero_cond_t=zero_cond_t, device=device)
        return build_refiner(Networks.of(pipeline), preset, settings, device, {})

    return make


@pytest.fixture
def make_item() -> MakeItem:
    """A crop of noise with a marked rectangle; equal arguments make equal items."""

    def make(
        seed: int = 0,
        size: tuple[int, int] = (96, 64),
        prompt: str = "Refine the logo.",
        reference: tuple[int, int] | None = None,
        marked: tuple[int, int, int, int] = (30, 20, 50, 30),
    ) -> Conditioning:
        random = np.random.default_rng(seed)
        width, height = size
        mask = np.zeros((height, width), bool)
        mask[marked[1] : marked[3], marked[0] : marked[2]] = True
        picture = None if reference is None else random.integers(0, 256, (*reference[::-1], 3), dtype=np.uint8)
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Conditioning(image, mask, mask, prompt, seed + 100, picture)

    return make
