"""CVAT XML for images: boxes that turn around their centre, polygons, ellipses, and masks with an RLE of their own.

CVAT's users saw the upright image. Tracks of videos are another format, and are refused.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from refine_ops.annotations.files import GivenFile, read_xml
from refine_ops.annotations.run_lengths import painted, runs_of
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    Outline,
    Painted,
    Reading,
    Remark,
    Shape,
    ellipse,
    number,
    rectangle,
    ring,
    simplest,
    turned_rectangle,
    whole,
)
from refine_ops.errors import ItemError
from refine_ops.records import Mask

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """Images in the file's order.

    Raises:
        ItemError: it is no XML, or none of CVAT's for images.
    """
    images = read_xml(file.uri, "annotations").findall("image")
    for at, element in enumerate(images, 1):
        yield from _image(element, f"image[{at}]")
    if not images:
        raise ItemError(
            "file.invalid", f"annotation file {file.uri}: no <image>; export the task as 'CVAT for images 1.1'"
        )


def _image(element: "Element", place: str) -> Iterator[Reading]:
    try:
        size = whole(element.get("width"), "width", 1), whole(element.get("height"), "height", 1)
        named = element.get("name") or ""
    except ItemError as e:
        yield Remark.of(place, e)
        return
    drawn = []
    for at, child in enumerate(element, 1):
        where = f"{place}/*[{at}]"
        try:
            drawn.append(Drawn(_shape(child), child.get("label") or "", where))
        except ItemError as e:
            yield Remark.of(where, e)
    yield DrawnImage(named, place, tuple(drawn), size)


def _shape(element: "Element") -> Shape:
    def given(name: str) -> float:
        return number(element.get(name), name)

    turn = number(element.get("rotation") or 0, "rotation")
    if element.tag == "box":
        box = rectangle(given("xtl"), given("ytl"), given("xbr"), given("ybr"))
        centre = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        return turned_rectangle(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0, turn, centre)
    if element.tag == "ellipse":
        return ellipse(given("cx"), given("cy"), given("rx"), given("ry"), turn)
    if element.tag == "polygon":
        points = [pair.split(",") for pair in (element.get("points") or "").split(";") if pair]
        return simplest(Outline((ring(points, "points"),)))
    if element.tag == "mask":
        size = whole(element.get("width"), "width", 1), whole(element.get("height"), "height", 1)
        left, top = whole(element.get("left"), "left"), whole(element.get("top"), "top")
        return Painted(*size, partial(_decoded, element.get("rle") or "", size), left, top, whole=False)
    raise ItemError("shape.none", f"<{element.tag}> marks no area")


def _decoded(rle: str, size: tuple[int, int]) -> Mask:
    """Rows of the mask's own box, first what is not marked."""
    try:
        counts = [int(count) for count in rle.split(",")]
    except ValueError as e:
        raise ItemError("rle.invalid", "rle: expected whole numbers with commas between") from e
    return painted(runs_of(counts, size[0] * size[1], "rle"), size, "C")
