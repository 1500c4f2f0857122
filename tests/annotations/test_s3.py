"""Annotation files, images, manifest and masks in a bucket of a real S3 endpoint (moto server)."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from refine_ops import storage
from refine_ops.annotations.exports import export_annotations
from refine_ops.annotations.imports import import_annotations
from refine_ops.annotations.settings import ImportSettings
from refine_ops.image.region import region_mask
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.annotated import LIMITS, photo

pytestmark = pytest.mark.processes


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="shop-annotated")
    yield "s3://shop-annotated"
    server.stop()


@pytest.mark.parametrize("form", ["label-studio", "coco"])
def test_everything_in_s3(form: str, shop: str, tmp_path: Path) -> None:
    data = photo(tmp_path / "a.png").read_bytes()
    for key in ("photos/shoes/a.png", "private/b.png"):
        storage.write(f"{shop}/{key}", data)
    box = {"box": [2, 3, 9, 8], "prompt": "Refine the toe"}
    wire = {"scribble": {"strokes": [[[5, 5], [30, 22]]], "width": 5}, "prompt": "x"}
    rows = [
        {"item_id": "1", "image": "photos/shoes/a.png", "regions": [box, wire]},
        {"item_id": "2", "image": "private/b.png", "regions": [box]},
    ]
    storage.write(f"{shop}/first.jsonl", "\n".join(map(json.dumps, rows)).encode())
    exported = export_annotations(form, f"{shop}/first.jsonl", f"{shop}/given.json", images=f"{shop}/photos")
    assert (exported.images, exported.regions) == (2, 3)
    assert (b"s3://shop-annotated/photos/shoes/a.png" in storage.read(f"{shop}/given.json")) == (form == "label-studio")
    settings = ImportSettings(images=f"{shop}/photos/", predictions=True)
    found = import_annotations(form, [f"{shop}/given.json"], f"{shop}/sets/again.parquet", settings)
    assert found.counts == {"image.missing": 1}, "what lies outside the prefix is not read"
    (item,) = read_items(f"{shop}/sets/again.parquet")
    (before, _) = read_items(f"{shop}/first.jsonl")
    assert isinstance(item, Item)
    assert isinstance(before, Item)
    assert item.image == f"{shop}/photos/shoes/a.png"
    toe, mask = item.regions
    assert toe.box == (2, 3, 9, 8)
    assert mask.mask is not None
    assert mask.mask.startswith(f"{shop}/sets/again.masks/")
    marked = region_mask(mask, (64, 48), storage.read(mask.mask), LIMITS)
    np.testing.assert_array_equal(marked, region_mask(before.regions[1], (64, 48), None, LIMITS))
