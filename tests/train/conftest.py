"""A small dataset in build-dataset's layout: seeded patterns, blurred inside a region."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from refine_ops.data.schema import SAMPLES

torch.set_num_threads(1)


def _png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "png")
    return sink.getvalue()


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    fine = rng.integers(0, 64, (side // 2, side // 2, 3), np.uint8)
    big = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_NEAREST)
    return np.clip(big.astype(int) + cv2.resize(fine, (side, side)) - 32, 0, 255).astype(np.uint8)


def _row(folder: Path, number: int, split: str, side: int, family: str) -> dict[str, object]:
    rng = np.random.default_rng(number)
    name = f"{split}-{number:04d}"
    target = _pattern(rng, side)
    mask = np.zeros((side, side), np.uint8)
    x, y = (int(v) for v in rng.integers(8, side // 2, 2))
    cv2.rectangle(mask, (x, y), (x + side // 3, y + side // 4), 255, -1)
    degraded = np.where(mask[..., None] > 0, cv2.GaussianBlur(target, (0, 0), 3), target)
    files = {"input": degraded, "target": target, "mask": mask, "object_mask": mask}
    if number % 3:
        files["reference"] = np.ascontiguousarray(target[::-1, ::-1])
    for kind, array in files.items():
        path = folder / "images" / f"{name}-{kind}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(array))
    return {
        "sample_id": name,
        "source_id": name,
        "setting": "reference" if number % 3 else "free",
        "split": split,
        **{kind: f"images/{name}-{kind}.png" for kind in files},
        "prompt": "Refine the sign in the masked region.",
        "description": "sign",
        "object_box": [x, y, x + side // 3 + 1, y + side // 4 + 1],
        "mask_kind": "box",
        "width": side,
        "height": side,
        "families": [family],
        "source_sha256": [],
        "licences": [],
        "seed": number,
        "degradations": json.dumps(["blur"]),
        "scores": "{}",
        "models": "{}",
    }


MakeDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make_dataset(folder, train=.., validation=.., side=..)` writes a dataset and gives its folder back."""

    def make(folder: Path, train: int = 6, validation: int = 2, side: int = 96) -> Path:
        rows = [_row(folder, n, "train", side, "blur" if n % 2 else "smear") for n in range(train)]
        rows += [_row(folder, 1000 + n, "validation", side, "blur") for n in range(validation)]
        table = pa.Table.from_pylist(rows, SAMPLES)
        (folder / "samples").mkdir(parents=True)
        pq.write_table(table, folder / "samples" / "part-00000.parquet")
        return folder

    return make
