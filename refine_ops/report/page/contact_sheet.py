"""The contact sheet: a few items before and after, the refined region at a size where one sees it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from refine_ops.records import Box, U8Image

_CELL_PX: Final = 320
_GAP_PX: Final = 12
_LABEL_PX: Final = 22
_INK, _PAPER, _MARK = (32, 32, 32), (255, 255, 255), (220, 40, 40)


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One region of one item: source and output, upright `uint8 (H, W, 3)`, and the box to show."""

    label: str
    before: U8Image
    after: U8Image
    box: Box


def contact_sheet(pairs: Sequence[SheetRow]) -> bytes:
    """A PNG with one row per pair: the whole source with the region marked, the region before, the region after."""
    height = len(pairs) * (_CELL_PX + _LABEL_PX + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (3 * _CELL_PX + 4 * _GAP_PX, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, pair in enumerate(pairs):
        top = _GAP_PX + row * (_CELL_PX + _LABEL_PX + _GAP_PX)
        views = _views(pair)
        for column, (view, caption) in enumerate(zip(views, (pair.label, "before", "after"), strict=True)):
            left = _GAP_PX + column * (_CELL_PX + _GAP_PX)
            draw.text((left, top), _fitting(draw, caption), fill=_INK, font_size=14)
            sheet.paste(view, (left, top + _LABEL_PX))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _views(pair: SheetRow) -> tuple[Image.Image, Image.Image, Image.Image]:
    box = _square(pair.box, pair.before.shape[1], pair.before.shape[0])
    whole = Image.fromarray(pair.before)
    scale = _CELL_PX / max(whole.size)
    whole = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))))
    x0, y0, x1, y1 = (round(v * scale) for v in pair.box)
    ImageDraw.Draw(whole).rectangle((x0 - 2, y0 - 2, x1 + 1, y1 + 1), outline=_MARK, width=2)
    return whole, _zoomed(pair.before, box), _zoomed(pair.after, box)


def _zoomed(image: U8Image, box: Box) -> Image.Image:
    x0, y0, x1, y1 = box
    part = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    scale = _CELL_PX / max(part.size)
    return part.resize(
        (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.BICUBIC
    )


def _square(box: Box, width: int, height: int) -> Box:
    """The box with a little room around it, made square where the image allows."""
    x0, y0, x1, y1 = box
    side = round(1.15 * max(x1 - x0, y1 - y0)) + 8
    left = min(max((x0 + x1 - side) // 2, 0), max(0, width - side))
    top = min(max((y0 + y1 - side) // 2, 0), max(0, height - side))
    return left, top, min(left + side, width), min(top + side, height)


def _fitting(draw: ImageDraw.ImageDraw, text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    while plain and draw.textlength(plain, font_size=14) > _CELL_PX:
        plain = plain[:-2] + "…" if len(plain) > 2 else ""
    return plain
