"""Tiny editors, built once for all workers' tests of this folder, and an item to give them."""

import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.model.open import open_refiner
from refine_ops.records import Conditioning, Item, Region
from tests.support.editors import BUILDERS

SMALL_PX = 128 * 128
"""What stands for 1 MP in classes that know but that one area."""
OWN_AREA = {
    "QwenImageEditPipeline": "pipeline_qwenimage_edit",
    "QwenImageEditInpaintPipeline": "pipeline_qwenimage_edit_inpaint",
    "LongCatImageEditPipeline": "pipeline_longcat_image_edit",
}

Editors = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def editors(tmp_path_factory: pytest.TempPathFactory) -> Editors:
    """A class's name -> a folder with a tiny pipeline of it."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = BUILDERS[name](tmp_path_factory.mktemp("editor") / name)
        return made[name]

    return build


@pytest.fixture
def small_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that always work at 1 MP work at `SMALL_PX` instead, by their own rule."""
    for name in OWN_AREA.values():
        folder = "longcat_image" if "longcat" in name else "qwenimage"
        module = importlib.import_module(f"diffusers.pipelines.{folder}.{name}")
        rule = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, rule=rule: rule(SMALL_PX, ratio))


@lru_cache(maxsize=8)
def opened(settings: ModelSettings) -> Any:
    """A loaded editor on the CPU, for tests that leave it as it is."""
    return open_refiner(settings, torch.device("cpu"))


def png(seed: int, size: tuple[int, int] = (200, 160)) -> bytes:
    """A soft picture with some grain."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    soft = cv2.resize(rough, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    picture = np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".png", picture)[1].tobytes()


def an_item(references: int = 0, item_id: str = "a", seed: int = 0) -> tuple[Item, dict[str, bytes]]:
    """One region of a picture, with references of one size."""
    named = tuple(f"reference-{i}.png" for i in range(references))
    region = Region("r0", "refine the logo.", box=(60, 50, 110, 90), references=named)
    files = {"image.png": png(seed)} | {name: png(10 + i, (96, 80)) for i, name in enumerate(named)}
    return Item(item_id, "image.png", f"{item_id}.png", (region,), row=0), files


def a_crop(seed: int = 0, size: tuple[int, int] = (96, 64), references: int = 0) -> Conditioning:
    """What a model is given: noise with a marked rectangle."""
    random = np.random.default_rng(seed)
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[20:40, 30:60] = True
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pictures = [random.integers(0, 256, (80, 96, 3), dtype=np.uint8) for _ in range(references)]
    first = pictures[0] if pictures else None
    return Conditioning(image, mask, mask, "refine the logo.", seed + 7, first, more=tuple(pictures[1:]))
