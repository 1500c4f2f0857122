"""Regions larger than the model's picture: several looks at the model's resolution, laid over each other without seams.

A tile is one look: a crop of the image, of whose answer the `window` in its middle is taken. Tiles are refined in turn;
each sees what the ones before it made, is asked for what they left open, and fades in over what it shares with them.
What they make together is one patch, pasted once, as if one look had made it. A region that the model sees as large as
it should has one tile, the whole of its crop.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image import focus
from refine_ops.image.formats.native import F32
from refine_ops.image.paste import paste_back
from refine_ops.records import Blend, Box, FocusCrop, Mask, U8Image

_EDGE: Final = 8
"""A tile's shorter side over what it sees on every side of its window, and over what neighbouring windows share."""


@dataclass(frozen=True, slots=True)
class Tile:
    """`window` is what is taken of the answer, in image px; it fades in over `fade` = (left, top) px of it."""

    crop: FocusCrop
    window: Box
    fade: tuple[int, int] = (0, 0)


def plan_tiles(box: Box, image: tuple[int, int], *, grid_px: int, pixels: int, zoom: float) -> list[Tile]:
    """Tiles whose windows cover `box` (image px), row by row, each seen at `zoom` or little more.

    Of the model's sizes the one that needs the fewest is taken; all tiles have it.

    Args:
        image: The image's (width, height).
    """
    width, height = box[2] - box[0], box[3] - box[1]
    plans = []
    for across, down, unit_px in focus.model_shapes(grid_px, pixels):
        units = int(unit_px / zoom)
        edge = max(1, units * min(across, down) // _EDGE)
        columns, rows = (_spread(n, k * units - 2 * edge, edge) for n, k in ((width, across), (height, down)))
        plans.append((len(columns) * len(rows), (across, down, unit_px, units), columns, rows))
    _, (across, down, unit_px, units), columns, rows = min(plans, key=lambda plan: plan[0])
    view, size = (across * units, down * units), (across * unit_px, down * unit_px)
    tiles = []
    for top, bottom, fade_y in rows:
        for left, right, fade_x in columns:
            window = box[0] + left, box[1] + top, box[0] + right, box[1] + bottom
            tiles.append(Tile(focus.crop_about(window, view, size, image, window), window, (fade_x, fade_y)))
    return tiles


def _spread(length: int, longest: int, shared: int) -> list[tuple[int, int, int]]:
    """[0, length) as spans of equal size, at most `longest`, that share about `shared`: start, stop, shared before."""
    if length <= longest:
        return [(0, length, 0)]
    count = -(-(length - shared) // (longest - shared))
    size = -(-(length - shared) // count) + shared
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [(s, s + size, 0 if i == 0 else starts[i - 1] + size - s) for i, s in enumerate(starts)]


def touching(tiles: list[Tile], crop: Box, support: Mask) -> tuple[Tile, ...]:
    """Those that have something to do, in their order.

    Args:
        crop: Where `support` lies.
        support: What will be pasted, `bool (crop h, crop w)`.
    """
    open_, kept = support.copy(), []
    for tile in tiles:
        part = within(tile.window, crop)
        if open_[part].any():
            kept.append(tile)
            open_[part] = False
    return tuple(kept)


def hull(tiles: list[Tile]) -> Box:
    """The smallest box that holds all their crops."""
    x0, y0, x1, y1 = zip(*(tile.crop.crop for tile in tiles), strict=True)
    return min(x0), min(y0), max(x1), max(y1)


class Mosaic:
    """What the tiles of one region have made so far; arrays lie on `crop`, which holds all of the tiles' crops."""

    def __init__(self, crop: Box, support: Mask, blend: Blend) -> None:
        self._crop, self._support, self._blend = crop, support, blend
        self._made: F32 | None = None
        self._done = np.zeros(support.shape, np.bool_)

    @property
    def patch(self) -> F32:
        """`float32 (crop h, crop w, 3)` in [0, 1]; of use where the blend is above 0."""
        if self._made is None:
            raise RuntimeError("no tile was added")
        return self._made

    def seen(self, tile: Tile, rgb: U8Image) -> U8Image:
        """The tile's crop of the image with what the tiles before have made, `uint8 (h, w, 3)`."""
        below = focus.crop_of(rgb, tile.crop.crop)
        part = within(tile.crop.crop, self._crop)
        if self._made is None or not self._done[part].any():
            return below
        blend = np.where(self._done[part], self._blend[part], np.float32(0))
        return paste_back(below, self._made[part] * np.float32(255), blend)

    def left_open(self, tile: Tile, mask: Mask) -> Mask:
        """Of `mask`, `bool (crop h, crop w)`, what no tile before has made, on the tile's crop."""
        part = within(tile.crop.crop, self._crop)
        return mask[part] & ~self._done[part]

    def add(self, tile: Tile, made: F32) -> None:
        """Lay a tile's answer, `float32` on its crop at native resolution, over what is there.

        Raises:
            ItemError: `patch.not_finite`.
        """
        if not np.isfinite(made).all():
            raise ItemError("patch.not_finite", "the model returned NaN or infinity; try dtype float32 or another seed")
        if tile.window == self._crop:
            self._made = made
            return
        if self._made is None:
            self._made = np.zeros((*self._support.shape, 3), np.float32)
        part = within(tile.window, self._crop)
        own = made[within(tile.window, tile.crop.crop)]
        # Where nothing lies below there is nothing to fade in over.
        weight = np.where(self._done[part], _ramp(own.shape[:2], tile.fade), np.float32(1))[..., None]
        self._made[part] += weight * (own - self._made[part])
        self._done[part] = True


def _ramp(shape: tuple[int, int], fade: tuple[int, int]) -> F32:
    """Rising from the left and from the top edge, `float32 (h, w)` in (0, 1]."""
    lengths = zip(shape[::-1], fade, strict=True)
    x, y = (np.minimum(1, np.arange(1, length + 1) / (part + 1)) for length, part in lengths)
    return np.asarray(y[:, None] * x, np.float32)


def within(box: Box, crop: Box) -> tuple[slice, slice]:
    """`box` as a part of an array on `crop`."""
    return slice(box[1] - crop[1], box[3] - crop[1]), slice(box[0] - crop[0], box[2] - crop[0])
