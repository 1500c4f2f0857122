"""The contact sheet: a few items before and after, every region at a size where one sees it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from refine_ops.image.focus import crop_of
from refine_ops.image.region import tight_box
from refine_ops.image.sheet import SheetCell, SheetRow, around, draw_sheet, fitted, tinted
from refine_ops.records import Box, Mask, U8Image

_CELL_PX: Final = 320
_MOST_REGIONS: Final = 6
"""Of one item, zoomed; those beyond are marked in the whole picture, and counted."""


@dataclass(frozen=True, slots=True, eq=False)
class SheetItem:
    """One item: source and output, upright `uint8 (H, W, 3)`; `marked` is where any of its regions is, `bool (H, W)`,
    `boxes` are the tight boxes of each, by region id."""

    label: str
    before: U8Image
    after: U8Image
    marked: Mask
    boxes: dict[str, Box]

    @classmethod
    def of(cls, label: str, before: U8Image, after: U8Image, masks: Iterable[tuple[str, Mask]]) -> "SheetItem":
        """From the regions' masks, of which only one need be in memory at a time."""
        marked, boxes = np.zeros(before.shape[:2], np.bool_), {}
        for region_id, mask in masks:
            marked |= mask
            boxes[region_id] = tight_box(mask)
        return cls(label, before, after, marked, boxes)


def contact_sheet(items: Iterable[SheetItem]) -> bytes:
    """A PNG: of each item the whole source with all that is marked, and each region before and after. One item at a
    time is held at its full size."""
    return draw_sheet([row for item in items for row in _rows(item)], _CELL_PX)


def _rows(item: SheetItem) -> list[SheetRow]:
    shown = list(item.boxes.items())[:_MOST_REGIONS]
    more = len(item.boxes) - len(shown)
    said = f"marked: {len(item.boxes)} region{'' if len(item.boxes) == 1 else 's'}"
    overview = SheetCell(tinted(item.before, item.marked, _CELL_PX), (said + (f", {more} not zoomed" if more else ""),))
    rows = []
    for number, (region_id, box) in enumerate(shown):
        name = f"{region_id}, " if len(item.boxes) > 1 else ""
        view = around(box, item.before.shape[1], item.before.shape[0])
        tiles = [_tile(item.before, view, f"{name}before"), _tile(item.after, view, f"{name}after")]
        first = number == 0
        rows.append(SheetRow([overview if first else SheetCell(None), *tiles], item.label if first else ""))
    return rows


def _tile(image: U8Image, box: Box, line: str) -> SheetCell:
    return SheetCell(np.asarray(fitted(crop_of(image, box), _CELL_PX)), (line,))
