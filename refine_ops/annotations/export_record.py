"""What is written into other tools' files: an item's image and its regions, as they are marked."""

from dataclasses import dataclass
from typing import Any

from refine_ops.annotations.shapes import Rectangle
from refine_ops.records import Mask


@dataclass(frozen=True, slots=True, eq=False)
class ExportedRegion:
    """A box, or the marked pixels `bool (H, W)` of a mask or scribble. `kept` is `KeptRegion`'s, as JSON."""

    region_id: str
    shape: Rectangle | Mask
    label: str
    prompt: str
    kept: dict[str, Any]
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ExportedImage:
    """`named` is what the file calls the image; `size` is (width, height), upright."""

    named: str
    size: tuple[int, int]
    item_id: str
    output: str
    category: str
    regions: tuple[ExportedRegion, ...]
