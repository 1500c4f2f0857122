"""VIA (VGG Image Annotator) 1, 2 and 3: a project, or its annotations alone, as JSON.

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

_VIA_3: Final = ("metadata", "view", "file")
_NAMES_3: Final = {2: "rect", 3: "circle", 4: "ellipse", 7: "polygon"}
"""What VIA 3 calls the shapes that are read."""
_LABEL_KEYS: Final = ("label", "class", "name", "type", "category")


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """Images in the file's order.

    Raises:
        ItemError: it is not VIA's.
    """
    data = read_json(file.uri)
    images = data.get("_via_img_metadata", data) if isinstance(data, dict) else None
    if isinstance(data, dict) and all(isinstance(data.get(part), dict) for part in _VIA_3):
        yield from _project(data)
        return
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


def _project(data: dict[str, Any]) -> Iterator[Reading]:
    """A project of VIA 3: metadata belong to views, a view shows files, and what a value means stands apart."""
    drawn: dict[str, list[Drawn]] = {str(view): [] for view in data["view"]}
    attributes = data.get("attribute") if isinstance(data.get("attribute"), dict) else {}
    for key, entry in data["metadata"].items():
        place = f"metadata[{key[:80]!r}]"
        try:
            entry = mapping(entry, place)
            view = text(entry.get("vid"), "vid")
            if view not in drawn:
                raise ItemError("entry.no_image", f"vid {view!r} is no view")
            if entry.get("z"):
                raise ItemError("shape.none", "it is about a time in a video")
            drawn[view].append(Drawn(_shape_3(listing(entry.get("xy"), "xy")), _label_3(entry, attributes), place))
        except ItemError as e:
            yield Remark.of(place, e)
    for view, shapes in drawn.items():
        place = f"view[{view[:80]!r}]"
        try:
            files = listing(mapping(data["view"][view], place).get("fid_list"), "fid_list")
            if len(files) != 1 or str(files[0]) not in data["file"]:
                raise ItemError("entry.no_image", f"it shows {len(files)} files, expected one that is in 'file'")
            file = mapping(data["file"][str(files[0])], "file")
            yield DrawnImage(text(file.get("src") or file.get("fname"), "src"), place, tuple(shapes))
        except ItemError as e:
            yield Remark.of(place, e)


def _label_3(entry: dict[str, Any], attributes: Any) -> str:
    """What was chosen, by its name; of several attributes all."""
    values = entry.get("av")
    said = []
    for key, value in values.items() if isinstance(values, dict) else ():
        about = attributes.get(key) if isinstance(attributes, dict) else None
        options = about.get("options") if isinstance(about, dict) else None
        named = options.get(str(value), value) if isinstance(options, dict) else value
        said.append(text(named, "av").strip())
    return ", ".join(filter(None, said))


def _shape_3(xy: list[Any]) -> Shape:
    """A number for the kind, then its coordinates in the order of VIA 2's names."""
    kind = _NAMES_3.get(xy[0]) if xy and isinstance(xy[0], int) else None
    if kind == "polygon":
        return _shape({"name": kind, "all_points_x": xy[1::2], "all_points_y": xy[2::2]})
    names = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    if kind is None or len(xy) < 1 + len(names[kind]):
        raise ItemError("shape.none", f"shape {str(xy[:1])[1:-1] or 'without a kind'} marks no area")
    return _shape({"name": kind, **dict(zip(names[kind], xy[1:], strict=False))})
