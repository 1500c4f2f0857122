"""Marks: what a region worth refining shows. Each is drawn as a flat sprite, `uint8 (h, w, 4)`, RGB and alpha."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from refine_ops.data.synthetic import assets

Sprite = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
_LETTERS: Final = string.ascii_uppercase * 2 + string.ascii_lowercase * 3
_SYLLABLES: Final = tuple(
    "ba ca da fi go hu la lo mi na no pe ra ri sa so ta ti vo zu ar el in or us an er is st tion ing".split()  # noqa: SIM905
)
_SCRIPTS: Final = {
    "Devanagari": [chr(code) for code in range(0x0915, 0x0939)],
    "Amiri": [chr(code) for code in range(0x0627, 0x064A)],
    "Garuda": [chr(code) for code in range(0x0E01, 0x0E2E)],
    "Nanum": [chr(code) for code in range(0xAC00, 0xAD00, 7)],
    "wqy": [chr(code) for code in range(0x4E00, 0x5200, 11)],
}
"""Fonts (by a part of their name) that are drawn in their own script half of the time."""


def _word(rng: np.random.Generator, path: Path) -> str:
    for part, letters in _SCRIPTS.items():
        if part in path.name and rng.random() < 0.5:
            return "".join(letters[int(i)] for i in rng.integers(len(letters), size=int(rng.integers(2, 6))))
    style = rng.random()
    if style < 0.35:
        letters = [_LETTERS[int(i)] for i in rng.integers(len(_LETTERS), size=int(rng.integers(2, 8)))]
        return "".join(letters)
    word = "".join(_SYLLABLES[int(i)] for i in rng.integers(len(_SYLLABLES), size=int(rng.integers(1, 4))))
    return word.upper() if style < 0.6 else word.capitalize() if style < 0.85 else word


def colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two colours whose brightness differs by at least 70 of 255."""
    while True:
        one, two = (rng.integers(0, 256, 3) if rng.random() < 0.6 else np.full(3, rng.integers(0, 256)) for _ in "ab")
        if abs(float(one.mean()) - float(two.mean())) >= 70:
            return tuple(one.tolist()), tuple(two.tolist())


def _plate(width: int, height: int, rng: np.random.Generator, fill: Colour) -> Image.Image:
    """A label to print on; in three of ten cases there is none (transparent)."""
    canvas = Image.new("RGBA", (width, height), (*fill, 0))
    draw = ImageDraw.Draw(canvas)
    kind = rng.random()
    if kind < 0.45:
        draw.rectangle((0, 0, width, height), fill=(*fill, 255))
    elif kind < 0.7:
        draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=min(width, height) // 5, fill=(*fill, 255))
    return canvas


def _typeset(lines: list[str], path: Path, size_px: int, rng: np.random.Generator) -> Sprite:
    face: ImageFont.FreeTypeFont = assets.font(path, size_px)
    ink, fill = colours(rng)
    boxes = [face.getbbox(line) for line in lines]
    pad = size_px // 4
    width = int(max(box[2] for box in boxes)) + 2 * pad
    height = sum(int(box[3]) + pad // 2 for box in boxes) + pad
    canvas = _plate(max(width, 8), max(height, 8), rng, fill)
    draw = ImageDraw.Draw(canvas)
    y = pad // 2
    for line, box in zip(lines, boxes, strict=True):
        draw.text((pad, y), line, font=face, fill=(*ink, 255))
        y += int(box[3]) + pad // 2
    return np.asarray(canvas)


def text(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """One or two lines of made-up words."""
    path = library.fonts[int(rng.integers(len(library.fonts)))]
    lines = [_word(rng, path) for _ in range(1 if rng.random() < 0.65 else 2)]
    return _typeset(lines, path, int(rng.integers(40, 72)), rng), path


def numbers(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """Prices, dates, serial numbers."""
    path = library.fonts[int(rng.integers(len(library.fonts)))]
    digits = "".join(str(int(d)) for d in rng.integers(0, 10, 8))
    forms = (
        f"{digits[:2]}.{digits[2:4]}",
        f"{digits[:2]}/{digits[2:4]}",
        f"No {digits[:4]}",
        digits[:6],
        f"{digits[:2]}%",
    )
    return _typeset([forms[int(rng.integers(len(forms)))]], path, int(rng.integers(40, 72)), rng), path


def icon(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """A pictogram of an icon font."""
    path = library.icon_fonts[int(rng.integers(len(library.icon_fonts)))]
    choice = assets.glyphs(path)
    return _typeset([choice[int(rng.integers(len(choice)))]], path, int(rng.integers(72, 120)), rng), path


def logo(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """Two to four overlapping regular shapes, as vector logos are made, sometimes with an initial."""
    side = 128
    ink, fill = colours(rng)
    canvas = _plate(side, side, rng, fill)
    draw = ImageDraw.Draw(canvas)
    palette = [ink, colours(rng)[0], fill]
    for layer in range(int(rng.integers(2, 5))):
        centre, radius = rng.uniform(48, 80, 2), rng.uniform(18, 56) / (1 + 0.3 * layer)
        shade = (*palette[layer % 3], 255)
        shape = int(rng.integers(4))
        if shape == 0:
            box = (*(centre - radius), *(centre + radius))
            draw.ellipse(box, fill=shade if rng.random() < 0.6 else None, outline=shade, width=int(rng.integers(4, 12)))
        else:
            corners = int(rng.integers(3, 8)) * (2 if shape == 3 else 1)
            turn = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
            radii = np.where(np.arange(corners) % 2 == 0, radius, radius * (0.45 if shape == 3 else 1.0))
            points = centre + np.stack([np.cos(turn), np.sin(turn)], 1) * radii[:, None]
            draw.polygon([tuple(point) for point in points.tolist()], fill=shade)
    path = None
    if rng.random() < 0.4:
        path = library.fonts[int(rng.integers(len(library.fonts)))]
        initial = _LETTERS[int(rng.integers(len(_LETTERS)))]
        draw.text((64, 64), initial, font=assets.font(path, 56), fill=(*palette[1], 255), anchor="mm")
    return np.asarray(canvas), path


def barcode(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """Bars of one to four modules, or a square of random modules; dark on light, with a quiet zone."""
    if rng.random() < 0.5:
        modules = np.repeat(rng.permuted(np.arange(24) % 2), rng.integers(1, 4, 24))
        grid = np.repeat(modules[None, :], int(rng.integers(20, 36)), 0)
        scale = 2 if modules.size > 56 else 3
    else:
        grid = rng.integers(0, 2, (side := int(rng.integers(9, 18)), side))
        scale = 128 // side
    light, dark = int(rng.integers(200, 256)), int(rng.integers(0, 60))
    tones = np.where(np.pad(grid, 2) > 0, dark, light).astype(np.uint8)
    tones = cv2.resize(tones, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    return np.dstack([tones, tones, tones, np.full_like(tones, 255)]), None


def thin(library: assets.Library, rng: np.random.Generator) -> tuple[Sprite, Path | None]:
    """Thin structures: a grid, rings, a fan, or a random web of lines."""
    side = 128
    ink, fill = colours(rng)
    canvas = _plate(side, side, rng, fill)
    draw = ImageDraw.Draw(canvas)
    line, step = int(rng.integers(2, 5)), int(rng.integers(10, 24))
    shade = (*ink, 255)
    kind = int(rng.integers(4))
    if kind == 0:
        for at in range(4, side, step):
            draw.line((at, 0, at, side), fill=shade, width=line)
            draw.line((0, at, side, at), fill=shade, width=line)
    elif kind == 1:
        for radius in range(6, side // 2, step // 2 + line):
            draw.ellipse((64 - radius, 64 - radius, 64 + radius, 64 + radius), outline=shade, width=line)
    elif kind == 2:
        for angle in np.linspace(0, 2 * np.pi, int(rng.integers(8, 20)), endpoint=False):
            draw.line((64, 64, 64 + 60 * float(np.cos(angle)), 64 + 60 * float(np.sin(angle))), fill=shade, width=line)
    else:
        points = rng.integers(4, side - 4, (int(rng.integers(6, 12)), 2))
        draw.line([tuple(point) for point in points.tolist()], fill=shade, width=line, joint="curve")
    return np.asarray(canvas), None


DrawMark = Callable[[assets.Library, np.random.Generator], tuple[Sprite, Path | None]]
MARKS: Final[dict[str, DrawMark]] = {
    "text": text, "numbers": numbers, "logo": logo, "icon": icon, "barcode": barcode, "thin": thin,
}  # fmt: skip
