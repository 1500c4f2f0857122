"""Samples written as build-dataset lays them out."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from refine_ops.data.schema import SAMPLES
from refine_ops.image.region import tight_box


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One sample. Images are `uint8 (h, w, 3)`, `mask` is `bool (h, w)`."""

    name: str
    split: str
    input: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    reference: np.ndarray | None
    prompt: str
    families: tuple[str, ...]


def write_dataset(folder: Path, pictures: Iterable[Picture]) -> Path:
    """One part, and its PNG files; returns `folder`."""
    (folder / "samples").mkdir(parents=True)
    (folder / "images").mkdir()
    table = pa.Table.from_pylist([_row(folder, picture) for picture in pictures], SAMPLES)
    pq.write_table(table, folder / "samples" / "part-00000.parquet")
    return folder


def _row(folder: Path, picture: Picture) -> dict[str, object]:
    marked = picture.mask.astype(np.uint8) * 255
    arrays = {"input": picture.input, "target": picture.target, "mask": marked, "object_mask": marked}
    if picture.reference is not None:
        arrays["reference"] = picture.reference
    for kind, array in arrays.items():
        (folder / "images" / f"{picture.name}-{kind}.png").write_bytes(_png(array))
    height, width = picture.mask.shape
    return {
        "sample_id": picture.name,
        "source_id": picture.name,
        "setting": "free" if picture.reference is None else "reference",
        "split": picture.split,
        **{kind: f"images/{picture.name}-{kind}.png" for kind in arrays},
        "prompt": picture.prompt,
        "description": "sign",
        "object_box": list(tight_box(picture.mask)),
        "mask_kind": "box",
        "width": width,
        "height": height,
        "families": list(picture.families),
        "source_sha256": [],
        "licences": [],
        "seed": 0,
        "degradations": json.dumps(["blur"]),
        "scores": "{}",
        "models": "{}",
    }


def _png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "png")
    return sink.getvalue()
