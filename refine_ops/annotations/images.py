"""Which image an annotation file means, below the one folder or prefix that its reader named; and how large it is.

An annotation file is a stranger's: what it calls an image is looked up below the root and nowhere else. Absolute paths,
`..`, other buckets and web addresses are never followed; their last parts may still name a file below the root, as
files are annotated on one machine and refined on another.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.native import check_size
from refine_ops.image.formats.table import CODECS, SUPPORTED, sniff

Image.MAX_IMAGE_PIXELS = None  # the caller's limit counts, as in `image.read`
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")
_UPLOADED: Final = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts in front of an uploaded file's name."""
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes say: `stored` is (width, height) in the file, `orientation` EXIF's, 1-8."""

    stored: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return (self.stored[1], self.stored[0]) if self.orientation >= 5 else self.stored


def read_header(uri: str, limits: ImageLimits) -> Header:
    """Size and orientation as refining will see them; no pixel is decoded.

    Raises:
        ItemError: `file.*`, `image.*`.
    """
    data = storage.read(uri, limits.max_bytes)
    kind = sniff(data)
    if kind is None:
        raise ItemError("image.not_an_image", f"{uri}: not an image this project reads; supported: {SUPPORTED}")
    turn = exif.orientation(data if kind == "tiff" else CODECS[kind].parse(data, uri).exif() or b"")
    shown = exif.with_orientation_1(data) if kind == "tiff" else data  # Pillow tells a TIFF's size turned upright
    try:
        with Image.open(BytesIO(shown), formats=[kind.upper()]) as image:
            stored = image.size
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as e:
        raise ItemError("image.truncated", f"{uri}: its header cannot be read ({e}); upload it again") from e
    check_size(*stored, uri, limits)
    return Header(stored, turn)


class ImageRoot:
    """Finds images below a folder or an S3 prefix."""

    def __init__(self, root: str) -> None:
        self.uri = storage.resolve(root).rstrip("/") or "/"

    def find(self, named: str, beside: str = "", *, suffixes: Sequence[str] = ()) -> tuple[str, bool]:
        """The URI of the image that a file calls `named`, and whether it was found just where it says.

        Looked for: the path relative to `beside` (the annotation file's folder) if that leads into the root, then the
        path as it is below the root, then ever shorter ends of it below the root.

        Args:
            suffixes: The name has none; these are tried.

        Raises:
            ItemError: `image.missing`, `image.unnamed`.
        """
        parts, exact = _parts(named, self.uri)
        if not parts:
            raise ItemError("image.unnamed", f"{named!r} names no image")
        for place, straight in self._places(named, parts, exact, beside):
            for suffix in suffixes or ("",):
                uri = storage.spelled_as_stored(f"{place}{suffix}")
                if storage.inside(uri, self.uri) and _is_file(uri):
                    return uri, straight
        raise ItemError(
            "image.missing", f"{named[:200]!r}: no such image below {self.uri}; --images says where to look"
        )

    def relative(self, uri: str) -> str:
        """The path of a found image below the root, with `/`."""
        return uri.removeprefix(self.uri).lstrip("/")

    def _places(self, named: str, parts: list[str], exact: bool, beside: str) -> Iterator[tuple[str, bool]]:
        if beside and "://" not in named and not named.startswith(("/", "\\")) and not _DRIVE.match(named):
            yield storage.join(beside, named.replace("\\", "/")), True  # `find` refuses what leaves the root
        yield storage.join(self.uri, *parts), exact
        for start in range(1, len(parts)):
            yield storage.join(self.uri, *parts[start:]), False
        plain = _UPLOADED.sub("", parts[-1], count=1)
        if plain != parts[-1]:
            yield storage.join(self.uri, plain), False


def _is_file(uri: str) -> bool:
    return storage.exists(uri) if storage.is_s3(uri) else os.path.isfile(uri)


def _parts(named: str, root: str) -> tuple[list[str], bool]:
    """The plain parts of a path, after the last `..`, and whether they are all of it."""
    if not named or not named.isprintable():
        raise ItemError("image.unnamed", f"{named[:200]!r} is no name of an image")
    path, exact = named, True
    if path.startswith(f"{root}/"):  # an absolute path or URI below the root
        path = path[len(root) + 1 :]
    elif "://" in path or path.startswith("/data/"):
        split = urlsplit(path)
        local = parse_qs(split.query).get("d", [""])[0] if split.path.startswith("/data/local-files") else ""
        path, exact = (local, not split.scheme) if local else (unquote(split.path), False)
        exact = exact and not path.startswith("/")
    elif path.startswith("/") or _DRIVE.match(path):
        path, exact = _DRIVE.sub("", path), False
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", ".")]
    if ".." in parts:
        parts, exact = parts[len(parts) - parts[::-1].index("..") :], False
    return parts, exact


def without_suffix(name: str) -> str:
    return posixpath.splitext(name)[0]
