"""The sheet of `check --sheet`: every region's marked pixels drawn over its picture, whole and near, so that a person
sees what a mask was understood to be before anything is refined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.image.focus import crop_of
from refine_ops.image.region import tight_box
from refine_ops.image.sheet import SheetCell, around, draw_sheet, in_rows, tinted
from refine_ops.records import Mask, U8Image

_CELL_PX: Final = 300
_REGIONS_A_ROW: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class MarkedCell:
    """One region: its picture with the marked pixels tinted, whole and near, small enough to wait for the others, and
    what is said of it."""

    whole: U8Image
    near: U8Image
    lines: tuple[str, ...]
    warned: bool


def marked_cell(rgb: U8Image, mask: Mask, lines: tuple[str, ...], *, warned: bool) -> MarkedCell:
    """
    Args:
        rgb: Upright, `uint8 (H, W, 3)`.
        mask: M, `bool (H, W)`, not empty.
    """
    box = around(tight_box(mask), rgb.shape[1], rgb.shape[0])
    near = tinted(crop_of(rgb, box), np.ascontiguousarray(crop_of(mask, box)), _CELL_PX)
    return MarkedCell(tinted(rgb, mask, _CELL_PX), near, lines, warned)


def marked_sheet(cells: Sequence[MarkedCell]) -> bytes:
    """All regions, as PNG."""
    tiles = []
    for cell in cells:
        tiles += [SheetCell(cell.whole, cell.lines, cell.warned), SheetCell(cell.near)]
    return draw_sheet(in_rows(tiles, 2 * _REGIONS_A_ROW), _CELL_PX)
