"""Annotated objects in the bundled photos, and what every finished set must hold."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

import refine_ops.data.demo
from refine_ops.data.config import BuildDatasetConfig, ManifestSource
from refine_ops.data.stages.masks import dilated
from refine_ops.image.paste import blend_mask

PHOTOS = Path(refine_ops.data.demo.__path__[0])
ANNOTATIONS: tuple[dict[str, Any], ...] = (
    {"image": "astronaut.jpg", "box": [150, 10, 305, 195], "description": "the astronaut's face"},
    {"image": "astronaut.jpg", "box": [130, 345, 212, 428], "description": "the mission patch"},
    {"image": "coffee.jpg", "box": [170, 15, 415, 215], "description": "the white cup"},
    {"image": "chelsea.jpg", "box": [110, 30, 360, 285], "description": "the cat's face"},
    {"image": "rocket.jpg", "box": [300, 115, 345, 420], "description": "the rocket"},
)


def write_manifest(path: Path, rows: tuple[dict[str, Any], ...] = ANNOTATIONS) -> Path:
    """A manifest beside `path` that names the bundled photos by absolute path."""
    values = [{"licence": "public domain", **r, "image": str(PHOTOS / r["image"])} for r in rows]
    path.write_text("\n".join(json.dumps(v) for v in values))
    return path


def photo_config(tmp_path: Path, out: str = "set", **source: Any) -> BuildDatasetConfig:
    manifest = tmp_path / "manifest.jsonl"
    if not manifest.exists():
        write_manifest(manifest)
    return BuildDatasetConfig(
        out=str(tmp_path / out),
        source=ManifestSource(manifest=str(manifest), **({"samples_per_row": 3} | source)),
        samples_per_part=4,
        validation_share=0.25,
    )


def rows_of(out: Path, kind: str = "samples") -> list[dict[str, Any]]:
    parts = sorted((out / kind).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(io.BytesIO(part.read_bytes())).to_pylist()]


def content(out: Path) -> Mapping[str, bytes]:
    """Everything of a set that may depend on neither machine nor restarts: all but timings, identity and card.

    Temporary files that a killed process left are not part of the set; nothing reads them.
    """
    files = (p for kind in ("samples", "rejects", "images") for p in sorted((out / kind).rglob("*")) if p.is_file())
    return {str(p.relative_to(out)): p.read_bytes() for p in files if not p.name.startswith(".tmp-")}


def read_png(out: Path, path: str) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(out / path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return np.asarray(image, np.uint8)


def assert_sound(out: Path, row: Mapping[str, Any]) -> None:
    """What training relies on, checked on the files alone."""
    input_, target = read_png(out, row["input"]), read_png(out, row["target"])
    mask, shape = (read_png(out, row[k]) for k in ("mask", "object_mask"))
    size = (row["height"], row["width"])
    assert input_.shape == target.shape == (*size, 3)
    assert mask.shape == shape.shape == size
    assert set(np.unique(mask)) <= {0, 255}
    marked, allowed = mask > 0, dilated(shape > 0)
    assert marked.any()
    support = blend_mask(marked) > 0
    changed = (input_ != target).any(axis=2)
    assert not (changed & ~support).any(), "the background differs"
    assert changed[marked].any(), "nothing to repair"
    if row["models"].find('"render"') >= 0 and row["mask_kind"] == "box":  # a rendered box is the mark's tight box
        ys, xs = np.nonzero(shape)
        allowed[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    assert not (marked & ~allowed).any(), "M leaves the dilated object"
    assert (row["setting"] == "reference") == (row["reference"] is not None)
    if row["reference"]:
        assert read_png(out, row["reference"]).ndim == 3
    assert row["description"]
    assert len(row["prompt"]) > 10
    assert row["families"]
    assert row["source_sha256"] or '"render"' in row["models"]


def assert_pure_splits(rows: list[dict[str, Any]]) -> None:
    seen: dict[str, set[str]] = {"train": set(), "validation": set()}
    for row in rows:
        seen[row["split"]].update(row["source_sha256"])
    assert not seen["train"] & seen["validation"]
