"""What every format comes down to: shapes that somebody drew on an image, in pixels of that image.

x counts from the left edge of the leftmost pixel and y from the top, so pixel (i, j) is the square from (i, j) to
(i + 1, j + 1). **A pixel is marked where its centre lies in the shape**: one rule for boxes, outlines and ellipses.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from refine_ops.annotations.kept import NO_ITEM, NO_REGION, KeptItem, KeptRegion
from refine_ops.cells import MAX_COORDINATE
from refine_ops.errors import ItemError
from refine_ops.records import Box, Mask

Points = npt.NDArray[np.float64]
"""`float64 (N, 2)`: x, y."""
MAX_POINTS: Final = 100_000
MAX_CROSSINGS: Final = 20_000_000
"""Pixel rows that all edges of an outline cross, taken together: filling takes time and memory in proportion."""
_CROSSED_AT_ONCE: Final = 1 << 20
_ELLIPSE_POINTS: Final = 720
_SAME: Final = 1e-6
"""Corners this close (in px) are one: percentages and normalised centres come back with such errors."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """An upright box by its edges, `x0 <= x1` and `y0 <= y1`; any finite numbers."""

    x0: float
    y0: float
    x1: float
    y1: float

    def pixels(self) -> Box:
        """Half-open, by the rule of centres; empty where it holds none. Not clipped."""
        return _first(self.x0), _first(self.y0), _first(self.x1), _first(self.y1)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Closed rings. Where they overlap, `holes` says whether that is inside (False: every ring adds) or outside (True:
    a ring within a ring is a hole)."""

    rings: tuple[Points, ...]
    holes: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """Pixels, decoded when they are wanted: `bool (height, width)` whose left upper pixel is (`left`, `top`).

    `whole` says that they are a mask of the whole image, so that their size must be the image's.
    """

    width: int
    height: int
    decode: Callable[[], Mask]
    left: int = 0
    top: int = 0
    whole: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class MaskFile:
    """A mask that lies in a file already."""

    uri: str


Shape = Rectangle | Outline | Painted | MaskFile


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One thing that somebody drew. `place` says where it stands in its file."""

    shape: Shape
    label: str
    place: str
    kept: KeptRegion = NO_REGION
    annotator: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnImage:
    """What was drawn on one image, by its name as the file gives it. `size` (width, height) as the file says, if it
    does; `beside` is the folder of the annotation file where names are relative to it; `shares` says that shapes are in
    shares of the image's width and height instead of pixels."""

    image: str
    place: str
    drawn: tuple[Drawn, ...]
    size: tuple[int, int] | None = None
    beside: str = ""
    shares: bool = False
    kept: KeptItem = NO_ITEM


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a file that its author should know: what could not be read and where it stands (`left_out`), or
    what was read in a way that may surprise."""

    place: str
    reason: str
    message: str
    left_out: bool = True

    @classmethod
    def of(cls, place: str, error: ItemError) -> "Remark":
        return cls(place, error.reason, str(error))


Reading = DrawnImage | Remark


def number(value: Any, name: str) -> float:
    """A finite number of a size that images have; text of one will do.

    Raises:
        ItemError: `number.invalid`.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_COORDINATE:
        raise ItemError("number.invalid", f"{name} is {str(value)[:40]}, expected a number of pixels")
    return float(value)


def whole(value: Any, name: str, least: int = 0) -> int:
    """A whole number from `least` on; text or a float of one will do. Raises as `number`."""
    found = number(value, name)
    if found != int(found) or found < least:
        raise ItemError("number.invalid", f"{name} is {str(value)[:40]}, expected a whole number from {least} on")
    return int(found)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Rectangle:
    """A box by two opposite corners.

    Raises:
        ItemError: `box.inverted`.
    """
    if x1 < x0 or y1 < y0:
        raise ItemError("box.inverted", f"a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) has a negative side")
    return Rectangle(x0, y0, x1, y1)


def ring(values: Sequence[Any], name: str) -> Points:
    """Points of one ring from `[[x, y], ...]`.

    Raises:
        ItemError: `outline.invalid`, `number.invalid`.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not 3 <= len(values) <= MAX_POINTS:
        raise ItemError("outline.invalid", f"{name}: expected 3 to {MAX_POINTS:,} points")
    if any(not isinstance(p, Sequence) or isinstance(p, str) or len(p) != 2 for p in values):
        raise ItemError("outline.invalid", f"{name}: every point is [x, y]")
    return np.array([[number(x, f"{name}: x"), number(y, f"{name}: y")] for x, y in values], np.float64)


def flat_ring(values: Any, name: str) -> Points:
    """Points of one ring from `[x, y, x, y, ...]`. Raises as `ring`."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) % 2:
        raise ItemError("outline.invalid", f"{name}: expected x, y, x, y, ... in turn")
    return ring(list(zip(values[0::2], values[1::2], strict=True)), name)


def turned_rectangle(
    x0: float, y0: float, width: float, height: float, degrees: float, pivot: tuple[float, float]
) -> Rectangle | Outline:
    """A box turned clockwise, as it is seen, around `pivot`."""
    box = rectangle(x0, y0, x0 + width, y0 + height)
    if degrees % 360 == 0:
        return box
    corners = np.array([[x0, y0], [box.x1, y0], [box.x1, box.y1], [x0, box.y1]])
    return simplest(Outline((_turned(corners, degrees, pivot),)))


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Outline:
    """An ellipse turned clockwise around its centre.

    Raises:
        ItemError: `outline.invalid`.
    """
    if rx <= 0 or ry <= 0:
        raise ItemError("outline.invalid", f"an ellipse with radii {rx:g} and {ry:g}; expected more than 0")
    around = np.linspace(0, 2 * math.pi, _ELLIPSE_POINTS, endpoint=False)
    points = np.stack([cx + rx * np.cos(around), cy + ry * np.sin(around)], axis=1)
    return Outline((_turned(points, degrees, (cx, cy)),))


def _turned(points: Points, degrees: float, pivot: tuple[float, float]) -> Points:
    """y points down, so that the usual matrix turns clockwise; quarter turns are exact."""
    angle = math.radians(degrees)
    cos, sin = (
        (round(math.cos(angle)), round(math.sin(angle))) if degrees % 90 == 0 else (math.cos(angle), math.sin(angle))
    )
    centre = np.array(pivot)
    turned: Points = (points - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    return turned


def simplest(shape: Rectangle | Outline) -> Rectangle | Outline:
    """An outline that is one upright rectangle, as that; anything else as it is."""
    if isinstance(shape, Rectangle) or len(shape.rings) != 1:
        return shape
    points = shape.rings[0]
    if len(points) == 5 and np.allclose(points[0], points[4], rtol=0, atol=_SAME):
        points = points[:4]
    if len(points) != 4:
        return shape
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    steps = np.abs(np.roll(points, -1, axis=0) - points)
    upright = (steps[:, 0] < _SAME) != (steps[:, 1] < _SAME)  # every side runs along one axis
    in_turn = (steps[:, 0] < _SAME) != np.roll(steps[:, 0] < _SAME, 1)
    return Rectangle(float(x0), float(y0), float(x1), float(y1)) if upright.all() and in_turn.all() else shape


def scaled(shape: Rectangle | Outline, across: float, down: float) -> Rectangle | Outline:
    """A shape with its x and y made so many times larger."""
    if isinstance(shape, Outline):
        return replace(shape, rings=tuple(r * (across, down) for r in shape.rings))
    return Rectangle(shape.x0 * across, shape.y0 * down, shape.x1 * across, shape.y1 * down)


def bounds(shape: Rectangle | Outline) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of all of it."""
    if isinstance(shape, Rectangle):
        return shape.x0, shape.y0, shape.x1, shape.y1
    points = np.concatenate(shape.rings)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def upright_shape(shape: Rectangle | Outline, orientation: int, stored: tuple[int, int]) -> Rectangle | Outline:
    """A shape given in pixels of the file as it is stored, in those of the upright image (EXIF orientation 1-8)."""
    if orientation == 1:
        return shape
    if isinstance(shape, Outline):
        return replace(shape, rings=tuple(_upright_points(r, orientation, stored) for r in shape.rings))
    corners = _upright_points(np.array([[shape.x0, shape.y0], [shape.x1, shape.y1]]), orientation, stored)
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return Rectangle(float(x0), float(y0), float(x1), float(y1))


def _upright_points(points: Points, orientation: int, stored: tuple[int, int]) -> Points:
    width, height = stored
    x, y = points[:, 0], points[:, 1]
    across, down = {
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[orientation]
    return np.stack([across, down], axis=1)


def filled(outline: Outline, size: tuple[int, int]) -> Mask:
    """The pixels of `size` (width, height) whose centres lie in the outline, `bool (H, W)`; what is outside is cut off.

    OpenCV and Pillow also fill the pixels that an outline merely touches, up to one more on every side.

    Raises:
        ItemError: `outline.invalid` where filling would take forever.
    """
    mask = np.zeros((size[1], size[0]), np.bool_)
    for points in outline.rings:
        mask = mask ^ _filled_ring(points, size) if outline.holes else mask | _filled_ring(points, size)
    return mask


def overlap(outline: Outline, size: tuple[int, int]) -> bool:
    """Whether two of its rings share pixels."""
    if len(outline.rings) < 2:
        return False
    return not np.array_equal(filled(replace(outline, holes=True), size), filled(replace(outline, holes=False), size))


def _filled_ring(points: Points, size: tuple[int, int]) -> Mask:
    """Even-odd: along a row of pixel centres, an odd number of edges lies to the left of what is inside."""
    width, height = size
    flips = np.zeros((height, width + 1), np.uint8)
    starts, stops = points, np.roll(points, -1, axis=0)
    down = starts[:, 1] <= stops[:, 1]
    upper, lower = np.where(down[:, None], starts, stops), np.where(down[:, None], stops, starts)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = last - first
    if int(counts.sum()) > MAX_CROSSINGS:
        raise ItemError("outline.invalid", f"an outline of {int(counts.sum()):,} px height in all; simplify it")
    for part in _parts(counts):
        edge = np.repeat(np.arange(part.start, part.stop), counts[part])
        begins = np.cumsum(counts[part]) - counts[part]
        row = first[edge] + np.arange(len(edge)) - np.repeat(begins, counts[part])
        (ux, uy), (lx, ly) = upper[edge].T, lower[edge].T
        x = ux + (row + 0.5 - uy) / (ly - uy) * (lx - ux)
        np.bitwise_xor.at(flips, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(np.bool_)


def _parts(counts: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Edges whose crossings fit together."""
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _CROSSED_AT_ONCE)) + 1
    yield from (slice(a, b) for a, b in pairwise([0, *cuts.tolist(), len(counts)]) if b > a)


def _first(edge: float) -> int:
    """The first pixel whose centre does not lie before the edge; an error of the last digits does not move it."""
    return math.ceil(edge - 0.5 - _SAME)
