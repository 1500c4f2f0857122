"""Fonts and photos that samples are rendered from, each with its SHA-256; bundled ones and folders of the user's.

What the demo and the held-out tests show is bundled apart, under `heldout`, and is never drawn unless asked for.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from PIL import ImageFont

from refine_ops.errors import JobError
from refine_ops.records import U8Image

ASSETS: Final = Path(__file__).parent / "assets"
DEMO_PHOTOS: Final = Path(__file__).parents[1] / "demo"
Side = Literal["train", "heldout"]
_FONT_SUFFIXES: Final = {".ttf", ".otf"}
_PHOTO_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, slots=True)
class Library:
    """Files to draw from, sorted by name so that a draw means the same file wherever the folders lie."""

    fonts: tuple[Path, ...]
    icon_fonts: tuple[Path, ...]
    photos: tuple[Path, ...]


def library(side: Side, folders: tuple[Path, ...] = ()) -> Library:
    """The bundled assets of one side, and in addition all fonts and photos in `folders`.

    Files of `folders` whose content is bundled for the other side are left out, so the sides stay disjoint.

    Raises:
        JobError: A folder does not exist.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise JobError(f"asset folders: expected existing folders, got {', '.join(missing)}")
    own = _files(ASSETS / side)
    if side == "heldout":
        own += _files(DEMO_PHOTOS)
    other = {sha256(path) for path in _files(ASSETS / ("heldout" if side == "train" else "train"))}
    other |= {sha256(path) for path in _files(DEMO_PHOTOS)} if side == "train" else set()
    extra = [path for folder in folders for path in _files(folder) if sha256(path) not in other]
    paths = sorted(own + extra, key=lambda path: (path.name, sha256(path)))
    fonts = [path for path in paths if path.suffix.lower() in _FONT_SUFFIXES]
    return Library(
        fonts=tuple(path for path in fonts if not _is_icons(path)),
        icon_fonts=tuple(path for path in fonts if _is_icons(path)),
        photos=tuple(path for path in paths if path.suffix.lower() in _PHOTO_SUFFIXES),
    )


def _files(folder: Path) -> list[Path]:
    wanted = _FONT_SUFFIXES | _PHOTO_SUFFIXES
    return [path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file()]


def _is_icons(path: Path) -> bool:
    """Icon fonts keep their pictures in the private use area and have no letters; told by name."""
    name = path.stem.lower()
    return any(word in name for word in ("icon", "awesome", "material"))


@lru_cache(maxsize=4096)
def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=1024)
def font(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    """A font at one size. Raises OSError where the file is not one."""
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=512)
def glyphs(path: Path) -> tuple[str, ...]:
    """Icons of an icon font: characters of the private use area that it draws."""
    face = font(path, 32)
    blank = face.getmask("\U0010fffd").getbbox()
    found = []
    for code in range(0xE000, 0xF300):
        box = face.getmask(chr(code)).getbbox()
        if box is not None and box != blank and box[2] - box[0] > 8 and box[3] - box[1] > 8:
            found.append(chr(code))
    return tuple(found)


@lru_cache(maxsize=256)
def photo(path: Path) -> U8Image:
    """A photo as RGB `uint8 (h, w, 3)`, at most 1024 px long so that a crop shows things, not grain."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise JobError(f"{path}: expected a photo that OpenCV reads, got none: remove it from the assets folder")
    scale = 1024 / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8)
