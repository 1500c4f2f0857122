"""Sheets: every picture at its place, marked pixels to be seen, names in any script."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from refine_ops.image import lettering
from refine_ops.image.lettering import draw_line, lettered
from refine_ops.image.sheet import SheetCell, SheetRow, draw_sheet, tinted

NAMES = [
    "shoe 1",
    "Größe Привет",
    "运动鞋",
    "حذاء ١٢",
    "שלום",
    "👩‍🔬 lab",
    "\u202egnp.exe",
    "two\nlines",
    "\U0010ffff",
    "｜𝕏",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_two_names_look_alike_for_want_of_a_font(name: str) -> None:
    face, shown = lettered(name, 14)
    nobodys = bytes(face.getmask("\U0010ffff"))
    for character in shown:
        assert character.isprintable()
        assert character.isspace() or bytes(face.getmask(character)) != nobodys
    for character in name:
        assert character in shown or lettering.spelled(character) in shown


def test_what_no_font_at_hand_draws_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_fonts", tuple)
    lettering._best.cache_clear()
    try:
        assert lettered("鞋 1", 14)[1] == "[U+978B] 1"
        assert lettered("a\u202eb", 14)[1] == "a[U+202E]b"
    finally:
        lettering._best.cache_clear()


def test_a_line_stays_within_its_room_however_long() -> None:
    canvas = Image.new("RGB", (300, 30), (255, 255, 255))
    draw_line(ImageDraw.Draw(canvas), (0, 0), "鞋W" * 50_000, width_px=120, size_px=14, ink=(0, 0, 0))
    drawn = np.asarray(canvas).min(axis=(0, 2)) < 128
    assert drawn[:120].any()
    assert not drawn[122:].any()


def _sheet(rows: list[SheetRow], cell_px: int = 64) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(draw_sheet(rows, cell_px))).convert("RGB"))


def test_every_picture_is_on_the_sheet_at_its_place() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [SheetCell(np.full((20, 40, 3), colour, np.uint8), (f"number {i}",)) for i, colour in enumerate(colours)]
    sheet = _sheet([SheetRow(tiles, "a title"), SheetRow([SheetCell(None), tiles[0]])])
    for colour in colours:
        assert (sheet == colour).all(axis=2).sum() >= 64 * 32
    assert (sheet == colours[0]).all(axis=2).sum() == 2 * 64 * 32
    firsts = [int(np.nonzero((sheet == c).all(axis=2).any(axis=0))[0][0]) for c in colours]
    assert firsts == sorted(firsts)
    assert _sheet([]).shape[2] == 3


def test_a_single_marked_pixel_of_a_large_picture_is_seen() -> None:
    picture = np.full((3000, 4000, 3), 128, np.uint8)
    mask = np.zeros((3000, 4000), np.bool_)
    mask[1500, 2000] = True
    small = tinted(picture, mask, 300).astype(int)
    assert small.shape[:2] == (225, 300)
    differs = np.abs(small - 128).max(axis=2) > 8
    assert 0 < differs.sum() <= 25
