"""VIA 1 and 2 (VGG Image Annotator): a project, or its annotations alone, as JSON.

Browsers turned its photos upright."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from refine_ops.annotations.files import GivenFile, listing, mapping, read_json, text
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    Outline,
    Reading,
    Remark,
    Shape,
    ellipse,
    number,
    rectangle,
    ring,
    simplest,
)
from refine_ops.errors import ItemError

_LABEL_KEYS: Final = ("label", "class", "name", "type", "category")


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """Images in the file's order.

    Raises:
        ItemError: it is not VIA's, or of version 3.
    """
    data = read_json(file.uri)
    images = data.get("_via_img_metadata", data) if isinstance(data, dict) else None
    if isinstance(data, dict) and "metadata" in data and "view" in data:
        raise ItemError(
            "file.invalid", f"annotation file {file.uri}: a project of VIA 3; export it as COCO and import that"
        )
    if not isinstance(images, dict) or not all(isinstance(e, dict) and "filename" in e for e in images.values()):
        raise ItemError("file.invalid", f"annotation file {file.uri}: no VIA project, nor its annotations")
    for key, entry in images.items():
        place = f"[{key[:80]!r}]"
        try:
            yield from _image(entry, place, settings.label_key)
        except ItemError as e:
            yield Remark.of(place, e)


def _image(entry: dict[str, Any], place: str, label_key: str | None) -> Iterator[Reading]:
    regions = entry.get("regions")
    if isinstance(regions, dict):  # VIA 1
        numbered = list(regions.items())
    else:
        numbered = [(str(at), region) for at, region in enumerate(listing(regions, "regions"))]
    drawn = []
    for at, region in numbered:
        where = f"{place}.regions[{at}]"
        try:
            region = mapping(region, where)
            attributes = mapping(region.get("region_attributes") or {}, "region_attributes")
            shape = _shape(mapping(region.get("shape_attributes"), "shape_attributes"))
            drawn.append(Drawn(shape, _label(attributes, label_key), where))
        except ItemError as e:
            yield Remark.of(where, e)
    yield DrawnImage(text(entry["filename"], "filename"), place, tuple(drawn))


def _label(attributes: Mapping[str, Any], key: str | None) -> str:
    """The attribute that was named, else one that is usually called so, else the only one."""
    known = [k for k in attributes if k.lower() in _LABEL_KEYS]
    chosen = key or (known[0] if known else next(iter(attributes)) if len(attributes) == 1 else "")
    value = attributes.get(chosen)
    if isinstance(value, dict):  # a checkbox: what is ticked
        return ", ".join(str(name) for name, ticked in value.items() if ticked)
    return text(value, chosen).strip()


def _shape(given: dict[str, Any]) -> Shape:
    def value(name: str) -> float:
        return number(given.get(name), name)

    kind = given.get("name")
    if kind == "rect":
        return rectangle(value("x"), value("y"), value("x") + value("width"), value("y") + value("height"))
    if kind == "circle":
        return ellipse(value("cx"), value("cy"), value("r"), value("r"))
    if kind == "ellipse":
        turn = math.degrees(number(given.get("theta") or 0, "theta"))
        return ellipse(value("cx"), value("cy"), value("rx"), value("ry"), turn)
    if kind == "polygon":
        across, down = (listing(given.get(f"all_points_{axis}"), f"all_points_{axis}") for axis in "xy")
        if len(across) != len(down):
            raise ItemError("outline.invalid", f"{len(across)} x and {len(down)} y of its points")
        return simplest(Outline((ring(list(zip(across, down, strict=True)), "points"),)))
    raise ItemError("shape.none", f"{str(kind)[:40]} marks no area")
