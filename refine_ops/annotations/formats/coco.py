"""COCO JSON: boxes, polygons, run lengths (compressed or not), crowds; read, and written."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from refine_ops.annotations import run_lengths
from refine_ops.annotations.export_record import ExportedImage
from refine_ops.annotations.files import GivenFile, listing, mapping, read_json, text
from refine_ops.annotations.kept import KEY, kept_item, kept_region, kept_under
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    Outline,
    Painted,
    Reading,
    Rectangle,
    Remark,
    Shape,
    flat_ring,
    number,
    rectangle,
    simplest,
    whole,
)
from refine_ops.errors import ItemError
from refine_ops.records import Mask


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """Images of one file in its order, each with what is drawn on it.

    Raises:
        ItemError: it is not a COCO data set.
    """
    data = read_json(file.uri)
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ItemError("file.invalid", f"annotation file {file.uri}: no COCO data set: it has no list 'images'")
    names, problems = _names(data.get("categories"))
    yield from problems
    images: dict[Any, tuple[int, dict[str, Any]]] = {}
    for at, entry in enumerate(data["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            yield Remark(f"images[{at}]", "entry.invalid", "an image without an id")
        elif entry["id"] in images:
            yield Remark(f"images[{at}]", "entry.duplicate", f"image id {entry['id']!r} is given twice")
        else:
            images[entry["id"]] = at, entry
    drawn: dict[Any, list[Drawn]] = {key: [] for key in images}
    annotations = data.get("annotations")
    for at, entry in enumerate(annotations if isinstance(annotations, list) else ()):
        place = f"annotations[{at}]"
        try:
            key = mapping(entry, place).get("image_id")
            if not isinstance(key, int | str) or key not in images:
                raise ItemError("entry.no_image", f"image_id {key!r} is not in 'images'")
            drawn[key].append(_drawn(entry, place, names, settings))
        except ItemError as e:
            yield Remark.of(place, e)
    if annotations is not None and not isinstance(annotations, list):
        yield Remark("annotations", "entry.invalid", "expected a list")
    for key, (at, entry) in images.items():
        yield _image(entry, f"images[{at}]", tuple(drawn[key]))


def _names(categories: Any) -> tuple[dict[Any, str], list[Remark]]:
    """Names by id; 0 is an id like any other."""
    names: dict[Any, str] = {}
    problems = []
    for at, entry in enumerate(categories if isinstance(categories, list) else ()):
        if isinstance(entry, dict) and isinstance(entry.get("id"), int | str) and isinstance(entry.get("name"), str):
            names[entry["id"]] = entry["name"]
        else:
            problems.append(Remark(f"categories[{at}]", "entry.invalid", "a category without id or name"))
    return names, problems


def _image(entry: dict[str, Any], place: str, drawn: tuple[Drawn, ...]) -> Reading:
    try:
        named = text(entry.get("file_name"), "file_name")
        size = None
        if entry.get("width") is not None and entry.get("height") is not None:
            size = whole(entry["width"], "width", 1), whole(entry["height"], "height", 1)
        kept = kept_item(kept_under(entry))
    except ItemError as e:
        return Remark.of(place, e)
    return DrawnImage(named, place, drawn, size, kept=kept)


def _drawn(entry: dict[str, Any], place: str, names: dict[Any, str], settings: ImportSettings) -> Drawn:
    category = entry.get("category_id")
    if category is not None and (not isinstance(category, int | str) or (names and category not in names)):
        raise ItemError("label.unknown", f"category_id {category!r} is not in 'categories'")
    return Drawn(_shape(entry, settings), names.get(category, ""), place, kept_region(kept_under(entry)))


def _shape(entry: dict[str, Any], settings: ImportSettings) -> Shape:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return _runs(segmentation)
    if segmentation:
        rings = tuple(flat_ring(r, f"segmentation[{i}]") for i, r in enumerate(listing(segmentation, "segmentation")))
        return simplest(Outline(rings, settings.rings == "holes"))
    box = listing(entry.get("bbox"), "bbox")
    if len(box) != 4:
        raise ItemError("box.invalid", "neither a segmentation nor a bbox of x, y, width, height")
    x, y, width, height = (number(v, "bbox") for v in box)
    return rectangle(x, y, x + width, y + height)


def _runs(segmentation: dict[str, Any]) -> Painted:
    size = listing(segmentation.get("size"), "segmentation.size")
    if len(size) != 2:
        raise ItemError("rle.invalid", "segmentation.size: expected [height, width]")
    height, width = (whole(v, "segmentation.size", 1) for v in size)
    return Painted(width, height, partial(_decoded, segmentation.get("counts"), width, height))


def _decoded(counts: Any, width: int, height: int) -> Mask:
    name, total = "segmentation.counts", width * height
    runs = (
        run_lengths.uncompressed(counts, total, name)
        if isinstance(counts, str)
        else run_lengths.runs_of(counts, total, name)
    )
    return run_lengths.painted(runs, (width, height), "F")


def write(images: Iterable[ExportedImage]) -> Iterator[str]:
    """A data set in pieces of JSON. Boxes have a bbox alone, everything else run lengths: outlines lose pixels."""
    categories: dict[str, int] = {}
    annotations: list[str] = []
    yield '{"info": {"description": "refine-ops annotations export"}, "images": ['
    for image_id, image in enumerate(images, 1):
        width, height = image.size
        kept = {"item_id": image.item_id, "output": image.output, "category": image.category}
        entry = {"id": image_id, "file_name": image.named, "width": width, "height": height, KEY: kept}
        yield f"{',' if image_id > 1 else ''}\n{json.dumps(entry)}"
        for region in image.regions:
            category = categories.setdefault(region.label, len(categories) + 1)
            shape, area = _written(region.shape)
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0}
            score = {} if region.score is None else {"score": region.score}
            annotations.append(json.dumps({**annotation, **shape, "area": area, **score, KEY: region.kept}))
    yield '\n], "annotations": [\n'
    yield ",\n".join(annotations)
    named = [{"id": number_, "name": name} for name, number_ in categories.items()]
    yield f'\n], "categories": {json.dumps(named)}}}\n'


def _written(shape: Rectangle | Mask) -> tuple[dict[str, Any], float]:
    if isinstance(shape, Rectangle):
        width, height = shape.x1 - shape.x0, shape.y1 - shape.y0
        return {"bbox": [shape.x0, shape.y0, width, height], "segmentation": []}, width * height
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    counts = run_lengths.compressed(run_lengths.runs_in(shape, "F"))
    size = [int(shape.shape[0]), int(shape.shape[1])]
    return {"bbox": box, "segmentation": {"size": size, "counts": counts}}, int(np.count_nonzero(shape))
