"""YOLO: one text file per image, a line per object: class, then in shares of the image's width and height either the
centre and the size of a box (and perhaps a confidence), or the corners of an outline. Images are named alike."""

import posixpath
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from refine_ops import storage
from refine_ops.annotations.files import GivenFile, read_text
from refine_ops.annotations.images import without_suffix
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    Outline,
    Reading,
    Rectangle,
    Remark,
    flat_ring,
    number,
    rectangle,
    simplest,
    whole,
)
from refine_ops.errors import ItemError

NAMES: Final = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
"""Where class names stand: in the labels' folder or up to two above it."""
NO_LABELS: Final = (*NAMES, "notes.txt", "train.txt", "val.txt", "test.txt")


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """The one image of a file.

    Raises:
        ItemError: the file or the class names cannot be read.
    """
    names = _names_for(file, settings.classes)
    if not names:
        yield Remark("", "label.unnamed", "no class names were found; --set classes=FILE names them", left_out=False)
    drawn = []
    for at, line in enumerate(read_text(file.uri).splitlines(), 1):
        values = line.split()
        if not values:
            continue
        try:
            label = whole(values[0], "class")
            if names and label >= len(names):
                raise ItemError("label.unknown", f"class {label}, and there are names for {len(names)}")
            drawn.append(Drawn(_shape(values[1:]), names[label] if names else "", f"line {at}"))
        except ItemError as e:
            yield Remark.of(f"line {at}", e)
    yield DrawnImage(without_suffix(file.relative), "", tuple(drawn), shares=True)


def _shape(values: list[str]) -> Rectangle | Outline:
    """In shares of the image."""
    if len(values) in (4, 5):
        x, y, width, height = (number(v, "a share of the image") for v in values[:4])
        return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) < 6 or len(values) % 2:
        raise ItemError("line.invalid", f"{len(values)} numbers after the class, expected 4, 5, or pairs of an outline")
    return simplest(Outline((flat_ring(values, "outline"),)))


def _names_for(file: GivenFile, given: str | None) -> tuple[str, ...]:
    if given:
        return _names(storage.resolve(given))
    folder = storage.folder_of(file.uri)
    for _ in range(3):
        found = _found_in(folder)
        if found:
            return _names(found)
        folder = storage.folder_of(folder)
    return ()


@lru_cache(maxsize=256)
def _found_in(folder: str) -> str | None:
    places = (storage.join(folder, name) for name in NAMES)
    return next((uri for uri in places if storage.exists(uri)), None)


@lru_cache(maxsize=16)
def _names(uri: str) -> tuple[str, ...]:
    text = read_text(uri)
    if posixpath.splitext(uri)[1] not in (".yaml", ".yml"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    import yaml

    try:
        names: Any = yaml.safe_load(text)["names"]
        if isinstance(names, dict):
            names = [names[index] for index in range(len(names))]
        return tuple(str(name) for name in names)
    except (yaml.YAMLError, KeyError, TypeError) as e:
        raise ItemError("file.invalid", f"class names {uri}: expected a list or mapping 'names' ({e})") from e


def forget() -> None:
    """Look class names up anew."""
    _found_in.cache_clear()
    _names.cache_clear()
