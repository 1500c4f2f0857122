"""A small dataset in build-dataset's layout: seeded patterns, blurred inside a region."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.dataset_folder import Picture, write_dataset

torch.set_num_threads(1)


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    fine = rng.integers(0, 64, (side // 2, side // 2, 3), np.uint8)
    big = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_NEAREST)
    return np.clip(big.astype(int) + cv2.resize(fine, (side, side)) - 32, 0, 255).astype(np.uint8)


def _picture(number: int, split: str, side: int, family: str) -> Picture:
    rng = np.random.default_rng(number)
    target = _pattern(rng, side)
    mask = np.zeros((side, side), np.uint8)
    x, y = (int(v) for v in rng.integers(8, side // 2, 2))
    cv2.rectangle(mask, (x, y), (x + side // 3, y + side // 4), 255, -1)
    return Picture(
        name=f"{split}-{number:04d}",
        split=split,
        input=np.where(mask[..., None] > 0, cv2.GaussianBlur(target, (0, 0), 3), target),
        target=target,
        mask=mask > 0,
        reference=np.ascontiguousarray(target[::-1, ::-1]) if number % 3 else None,
        prompt="Refine the sign in the masked region.",
        families=(family,),
    )


MakeDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make_dataset(folder, train=.., validation=.., side=..)` writes a dataset and gives its folder back."""

    def make(folder: Path, train: int = 6, validation: int = 2, side: int = 96) -> Path:
        pictures = [_picture(n, "train", side, "blur" if n % 2 else "smear") for n in range(train)]
        pictures += [_picture(1000 + n, "validation", side, "blur") for n in range(validation)]
        return write_dataset(folder, pictures)

    return make
