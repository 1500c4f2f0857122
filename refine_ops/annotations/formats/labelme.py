"""LabelMe: one JSON file per image; polygons, rectangles by two corners, circles, masks as a PNG.

LabelMe turns photos upright as it opens them. An image is named relative to its file.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

from refine_ops.annotations.embedded import embedded_mask
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
    whole,
)
from refine_ops.errors import ItemError
from refine_ops.storage import folder_of

_NO_AREA: Final = ("point", "points", "line", "linestrip")


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """The one image of a file.

    Raises:
        ItemError: it is not LabelMe's.
    """
    data = read_json(file.uri)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise ItemError("file.invalid", f"annotation file {file.uri}: not LabelMe's: it has no list 'shapes'")
    drawn = []
    for at, entry in enumerate(data["shapes"]):
        place = f"shapes[{at}]"
        try:
            entry = mapping(entry, place)
            drawn.append(Drawn(_shape(entry), text(entry.get("label"), "label"), place))
        except ItemError as e:
            yield Remark.of(place, e)
    try:
        size = None
        if data.get("imageWidth") and data.get("imageHeight"):
            size = whole(data["imageWidth"], "imageWidth", 1), whole(data["imageHeight"], "imageHeight", 1)
        yield DrawnImage(text(data.get("imagePath"), "imagePath"), "", tuple(drawn), size, folder_of(file.uri))
    except ItemError as e:
        yield Remark.of("", e)


def _shape(entry: dict[str, Any]) -> Shape:
    kind = text(entry.get("shape_type"), "shape_type") or "polygon"
    points = listing(entry.get("points"), "points")
    if kind in _NO_AREA:
        raise ItemError("shape.none", f"{kind} marks no area")
    if kind not in ("rectangle", "circle", "mask") or len(points) > 2:
        return simplest(Outline((ring(points, "points"),)))
    if len(points) != 2:
        raise ItemError("outline.invalid", f"{kind}: {len(points)} points, expected 2")
    (x0, y0), (x1, y1) = (_point(point) for point in points)
    if kind == "circle":
        radius = math.dist((x0, y0), (x1, y1))
        return ellipse(x0, y0, radius, radius)
    if kind == "rectangle":
        return rectangle(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    return embedded_mask(entry.get("mask"), "mask", left=round(x0), top=round(y0), whole=False)


def _point(point: Any) -> tuple[float, float]:
    if not isinstance(point, list) or len(point) != 2:
        raise ItemError("outline.invalid", "points: every point is [x, y]")
    return number(point[0], "x"), number(point[1], "y")
