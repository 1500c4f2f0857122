"""Plain masks by folder: a mask is named as its image is, with another suffix or `_mask` behind the name; below a
folder that the images do not have, that folder is the label.

    photos/shoes/17.jpg    masks/shoes/17.png    masks/logo/shoes/17.png    masks/shoes/17_mask.png

A mask stays where it is; which of its pixels are marked, is `image.mask`'s rule, as for every mask of a manifest.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from refine_ops import storage
from refine_ops.annotations.files import GivenFile
from refine_ops.annotations.images import without_suffix
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import Drawn, DrawnImage, MaskFile, Reading

SUFFIXES: Final = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg")
_MASK: Final = re.compile(r"[_.-]mask$", re.IGNORECASE)


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """The image of one mask."""
    named, label = _MASK.sub("", without_suffix(file.relative)), ""
    first, separator, rest = named.partition("/")
    if separator and not _has_folder(storage.resolve(settings.images), first):
        named, label = rest, first
    yield DrawnImage(named, "", (Drawn(MaskFile(file.uri), label, ""),))


@lru_cache(maxsize=1024)
def _has_folder(images: str, name: str) -> bool:
    return next(storage.list_files(storage.join(images, name)), None) is not None


def forget() -> None:
    """Look the images' folders up anew."""
    _has_folder.cache_clear()
