"""Names drawn into pictures, in any script: by a font at hand that has it, else spelled as code points.

Pillow's own font has Latin alone. Others are looked for where systems keep them, and only once a name needs one; what
none of them draws reads `[U+904B]`, so that two names never look alike for want of a font.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from PIL import ImageDraw, ImageFont

Face = ImageFont.FreeTypeFont

_FOLDERS: Final = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts"),
)
_SUFFIXES: Final = frozenset({".ttf", ".otf", ".ttc"})
_MOST_FONTS: Final = 2000
_MOST_CHARACTERS: Final = 160
"""More than any picture on a sheet is wide; the rest of a name is cut off before it is measured."""
_NOBODYS: Final = "\U0010ffff"
"""A noncharacter: what a font draws for it is its sign for what it has not got."""


def draw_line(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, width_px: int, size_px: int, ink: tuple[int, int, int]
) -> None:
    """One line of untrusted text at its top left corner, cut off with an ellipsis where it is wider than `width_px`."""
    face, shown = lettered(text, size_px)
    draw.text(at, fitting(shown, face, width_px), fill=ink, font=face)


def lettered(text: str, size_px: int) -> tuple[Face, str]:
    """The font for a line, and the line with what it cannot draw spelled out."""
    plain = "".join(c if c.isprintable() else spelled(c) for c in text[:_MOST_CHARACTERS])
    wanted = frozenset(c for c in plain if not c.isspace())
    name = _best(wanted)
    missing = {c for c in wanted if not _draws(name, c)}
    return _face(name, size_px), "".join(spelled(c) if c in missing else c for c in plain)


def spelled(character: str) -> str:
    """A character as its code point."""
    return f"[U+{ord(character):04X}]"


def fitting(text: str, face: Face, width_px: int) -> str:
    """As much of the beginning as fits, with an ellipsis."""
    if face.getlength(text) <= width_px:
        return text
    end = "…" if _has(face, "…") else "..."
    while text and face.getlength(text + end) > width_px:
        text = text[:-1]
    return text + end


@cache
def _best(wanted: frozenset[str]) -> str:
    """The file of the font that draws most of these characters, Pillow's own ("") where that draws all."""
    lacking = sorted(c for c in wanted if not _draws("", c))
    probes = {lacking[0], lacking[len(lacking) // 2], lacking[-1]} if lacking else set()
    best, most = "", len(wanted) - len(lacking)
    for file in _fonts():
        if most == len(wanted):
            break
        # Most fonts are dismissed by three looks.
        drawn = sum(_draws(file, c) for c in wanted) if any(_draws(file, c) for c in probes) else 0
        if drawn > most:
            best, most = file, drawn
    return best


@cache
def _fonts() -> tuple[str, ...]:
    """Font files at hand, regular faces first: they are read by FreeType, and only looked at for names."""
    found = sorted({str(p) for folder in _folders() for p in _in(folder)})[:_MOST_FONTS]
    return tuple(sorted(found, key=lambda f: ("regular" not in f.lower() and not f.endswith("DejaVuSans.ttf"), f)))


def _folders() -> Iterator[Path]:
    yield from (Path(folder).expanduser() for folder in _FOLDERS)
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


def _in(folder: Path) -> Iterator[Path]:
    try:
        yield from (p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    except OSError:
        return


@cache
def _face(file: str, size_px: int) -> Face:
    if file:
        return ImageFont.truetype(file, size_px)
    own = ImageFont.load_default(size_px)
    assert isinstance(own, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return own


@cache
def _draws(file: str, character: str) -> bool:
    """Whether the font has a sign of its own for the character."""
    try:
        return _has(_face(file, 16), character)
    except (OSError, ValueError):
        return False  # no font after all, or of sizes of its own, as coloured ones are


def _has(face: Face, character: str) -> bool:
    sign, nobodys = face.getmask(character), face.getmask(_NOBODYS)
    return (sign.size, bytes(sign)) != (nobodys.size, bytes(nobodys)) and sign.getbbox() is not None
