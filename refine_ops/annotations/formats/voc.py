"""Pascal VOC: one XML file per image, boxes whose corners are pixels, counted from 1 and both inside.

So `xmin` 1 and `xmax` 10 are the first ten columns. Tools that count pixels from 0 write the same file, and so do those
that give the edges (LabelMe's and CVAT's export): `origin` says so.
Whether a photo was turned upright (EXIF) depends on the tool: labelImg began to with 1.8.5.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from refine_ops.annotations.files import GivenFile, read_xml
from refine_ops.annotations.settings import ImportSettings, Origin
from refine_ops.annotations.shapes import Drawn, DrawnImage, Reading, Rectangle, Remark, number, rectangle, whole
from refine_ops.errors import ItemError
from refine_ops.storage import folder_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """The one image of a file.

    Raises:
        ItemError: it is no XML.
    """
    element = read_xml(file.uri, "annotation")
    drawn = []
    for at, entry in enumerate(element.findall("object"), 1):
        place = f"object[{at}]"
        try:
            drawn.append(Drawn(_box(entry, settings.origin), (entry.findtext("name") or "").strip(), place))
        except ItemError as e:
            yield Remark.of(place, e)
        if entry.find("part") is not None:
            yield Remark(place, "part.unread", "its parts' boxes are not read, only its own", left_out=False)
    try:
        size = None
        if element.findtext("size/width") and element.findtext("size/height"):
            size = whole(element.findtext("size/width"), "width"), whole(element.findtext("size/height"), "height")
        size = size if size and size[0] and size[1] else None  # some tools write 0 for what they do not know
        named = (element.findtext("filename") or "").strip()
    except ItemError as e:
        yield Remark.of("size", e)
        return
    yield DrawnImage(named, "", tuple(drawn), size, folder_of(file.uri))


def _box(entry: "Element", origin: Origin) -> Rectangle:
    box = entry.find("bndbox")
    if box is None:
        raise ItemError("box.invalid", "no <bndbox>")
    x0, y0, x1, y1 = (number(box.findtext(name), name) for name in ("xmin", "ymin", "xmax", "ymax"))
    if origin == "edges":
        return rectangle(x0, y0, x1, y1)
    if origin == 1 and (x0 < 1 or y0 < 1):
        raise ItemError(
            "box.origin",
            "xmin or ymin below 1: this file counts otherwise; --set origin=0 reads pixels from 0, origin=edges edges",
        )
    return rectangle(x0 - origin, y0 - origin, x1 - origin + 1, y1 - origin + 1)
