"""Files of which somebody changed a value or two: each is imported, or refused with a reason; nothing else happens."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from refine_ops.annotations.imports import import_annotations
from refine_ops.annotations.run_lengths import brush_data, compressed, runs_in
from refine_ops.annotations.settings import ImportSettings
from refine_ops.errors import JobError
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.annotated import photo

MASK = np.eye(48, 64, dtype=bool)
SIZED = {"original_width": 64, "original_height": 48}
DOCUMENTS: dict[str, Any] = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "refine_ops": {"item_id": "x"}}],
        "annotations": [
            {"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4], "refine_ops": {"region_id": "r", "seed": 3}},
            {"image_id": 1, "category_id": 0, "segmentation": [[1, 2, 30, 4, 5, 26]], "iscrowd": 0},
            {"image_id": 1, "segmentation": {"size": [48, 64], "counts": compressed(runs_in(MASK, "F"))}},
        ],
        "categories": [{"id": 0, "name": "c"}],
    },
    "label-studio": [
        {
            "data": {"image": "a.jpg", "refine_ops": {"regions": {"r": {"prompt": "p"}}}},
            "annotations": [
                {
                    "completed_by": {"id": 1},
                    "result": [
                        {"id": "r", "type": "rectangle", "value": {"x": 1, "y": 2, "width": 30, "height": 20}, **SIZED},
                        {"id": "b", "type": "brush", "value": {"format": "rle", "rle": brush_data(MASK)}, **SIZED},
                        {"id": "b", "type": "textarea", "from_name": "prompt", "value": {"text": ["hello"]}},
                    ],
                }
            ],
        }
    ],
    "via": {
        "k": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "circle", "cx": 20, "cy": 9, "r": 5}}]}
    },
    "labelme": {"shapes": [{"label": "x", "points": [[1, 2], [20, 30], [40, 3]]}], "imagePath": "a.jpg"},
}
JUNK = [None, True, -1, 1e308, float("nan"), 10**30, "", "\ud800", "\n", "a" * 600, [], {}, [None], "../..", "s3://b/k"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:9]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def test_a_file_with_anything_in_it_is_imported_or_refused_with_a_reason(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg")
    rng, imported = random.Random(5), 0
    settings = ImportSettings(images=str(tmp_path / "photos"))
    for turn in range(60):
        form = list(DOCUMENTS)[turn % len(DOCUMENTS)]
        document = copy.deepcopy(DOCUMENTS[form])
        *path, last = rng.choice([path for path in places(document) if path])
        inside = document
        for key in path:
            inside = inside[key]
        inside[last] = rng.choice(JUNK)
        (tmp_path / "given.json").write_text(json.dumps(document))
        out = tmp_path / f"{turn}.parquet"
        try:
            import_annotations(form, [str(tmp_path / "given.json")], str(out), settings)
        except JobError:
            assert not out.exists()
            continue
        assert all(isinstance(item, Item) for item in read_items(str(out)))
        imported += 1
    assert 20 < imported < 60
