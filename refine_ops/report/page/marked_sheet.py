"""The sheet of `check --sheet`: every region's marked pixels drawn over its picture, so that a person sees what a mask
was understood to be before anything is refined."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from refine_ops.records import Mask, U8Image

_CELL_PX: Final = 300
_GAP_PX: Final = 12
_LINE_PX: Final = 20
_COLUMNS: Final = 4
_INK, _WARNING, _PAPER = (32, 32, 32), (176, 0, 32), (255, 255, 255)
_TINT: Final = np.array((255, 32, 96), np.float32)
_TINT_SHARE: Final = 0.45
"""Through this much tint the marked content can still be told."""


@dataclass(frozen=True, slots=True, eq=False)
class MarkedCell:
    """One region: its picture with the marked pixels tinted, small enough to wait for the others, and what is said."""

    picture: Image.Image
    lines: tuple[str, ...]
    warned: bool


def tinted(rgb: U8Image, mask: Mask) -> Image.Image:
    """The picture at the sheet's size with the marked pixels tinted and their border drawn.

    Args:
        rgb: Upright, `uint8 (H, W, 3)`.
        mask: `bool (H, W)`; however small the picture becomes, a marked pixel stays to be seen.
    """
    height, width = mask.shape
    scale = _CELL_PX / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX), np.float32)
    cover = Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize(size, Image.Resampling.BOX)
    grown = cover.point(lambda v: 255 if v else 0)
    inside = np.asarray(grown) > 0
    border = (np.asarray(grown.filter(ImageFilter.MaxFilter(3))) > 0) & ~inside
    small = small.copy()
    small[inside] += (_TINT - small[inside]) * _TINT_SHARE
    small[border] = _TINT
    return Image.fromarray(np.clip(small.round(), 0, 255).astype(np.uint8))


def marked_sheet(cells: Sequence[MarkedCell]) -> bytes:
    """All cells, as PNG."""
    lines = max((len(cell.lines) for cell in cells), default=0)
    step_x, step_y = _CELL_PX + _GAP_PX, _CELL_PX + lines * _LINE_PX + _GAP_PX
    rows = math.ceil(len(cells) / _COLUMNS)
    across = min(len(cells), _COLUMNS) or 1
    sheet = Image.new("RGB", (across * step_x + _GAP_PX, max(1, rows) * step_y + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        left, top = _GAP_PX + index % _COLUMNS * step_x, _GAP_PX + index // _COLUMNS * step_y
        for number, line in enumerate(cell.lines):
            ink = _WARNING if cell.warned and number else _INK
            draw.text((left, top + number * _LINE_PX), _fitting(draw, line), fill=ink, font_size=14)
        sheet.paste(cell.picture, (left, top + lines * _LINE_PX))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _fitting(draw: ImageDraw.ImageDraw, text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    while plain and draw.textlength(plain, font_size=14) > _CELL_PX:
        plain = plain[:-2] + "…" if len(plain) > 2 else ""
    return plain
