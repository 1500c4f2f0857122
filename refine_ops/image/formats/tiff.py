"""TIFF files: their directory, and what of it decides where samples are."""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image.formats.native import Model

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
OFFSETS, _SAMPLES, _ROWS, COUNTS, _PLANAR = 273, 277, 278, 279, 284
_TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 323, 324, 325
_PREDICTOR, _TILE_WIDTH, _EXTRA, _FORMAT, _ICC = 317, 322, 338, 339, 34675
NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 8, 32946, 32773
_COMPRESSIONS: Final = frozenset({NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS})
LAYOUTS: Final = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}
"""struct's letter of a tag's kind."""
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MODELS: Final[dict[int, tuple[Model, int]]] = {1: ("grey", 1), 2: ("rgb", 3), 5: ("cmyk", 4)}
_UNASSOCIATED_ALPHA: Final = 2
_MOST_PADDED, _ONE_TILE_PX = 4, 1 << 22
"""Tiles may hold so many times the picture's pixels, and one tile's more: padding is decoded as well."""
XMP: Final = 700
PHOTOSHOP: Final = 34377
CREDENTIALS: Final = 52545
"""The tag of a C2PA manifest store."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One directory entry; `at` is the offset of its values in the file."""

    kind: int
    count: int
    at: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """The one image of a TIFF and what decides where its samples are. `order` is struct's byte order."""

    order: str
    tags: dict[int, Tag]

    def values(self, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        entry = self.tags.get(tag)
        layout = LAYOUTS.get(entry.kind) if entry else None
        if entry is None or layout is None or not entry.count:
            return default
        return struct.unpack(f"{self.order}{entry.count}{layout}", entry.raw)

    def value(self, tag: int, default: int) -> int:
        return self.values(tag, (default,))[0]

    @property
    def width(self) -> int:
        return self.value(_WIDTH, 0)

    @property
    def height(self) -> int:
        return self.value(_HEIGHT, 0)

    @property
    def bits(self) -> int:
        return self.value(_BITS, 1)

    @property
    def channels(self) -> int:
        return self.value(_SAMPLES, 1)

    @property
    def model(self) -> Model:
        return _MODELS[self.value(_PHOTOMETRIC, 1)][0]

    @property
    def alpha(self) -> bool:
        return self.channels > _MODELS[self.value(_PHOTOMETRIC, 1)][1]

    @property
    def icc(self) -> bytes | None:
        return self.tags[_ICC].raw if _ICC in self.tags else None

    @property
    def rows_per_strip(self) -> int:
        return min(self.value(_ROWS, self.height), self.height)

    @property
    def tiled(self) -> bool:
        return _TILE_WIDTH in self.tags

    @property
    def block(self) -> tuple[int, int]:
        """(width, height) of a tile or strip in pixels; tiles are padded to it, the last strip is not."""
        if self.tiled:
            return self.value(_TILE_WIDTH, 0), self.value(_TILE_HEIGHT, 0)
        return self.width, self.rows_per_strip

    @property
    def grid(self) -> tuple[int, int]:
        """How many blocks lie beside and below each other."""
        width, height = self.block
        return -(-self.width // max(width, 1)), -(-self.height // max(height, 1))

    @property
    def row_bytes(self) -> int:
        """Of one row of a block."""
        return self.block[0] * self.channels * self.bits // 8

    @property
    def tables(self) -> tuple[int, int]:
        """Tags of the offsets and of the sizes of the blocks."""
        return (TILE_OFFSETS, TILE_COUNTS) if self.tiled else (OFFSETS, COUNTS)

    @property
    def strips(self) -> list[tuple[int, int]]:
        """(offset, bytes) of every strip or tile, row by row."""
        offsets, counts = self.tables
        return list(zip(self.values(offsets, ()), self.values(counts, ()), strict=False))

    def place(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of a block; at the right and lower edge they reach past the picture."""
        (width, height), (across, _) = self.block, self.grid
        down, right = divmod(index, across)
        return slice(down * height, (down + 1) * height), slice(right * width, (right + 1) * width)

    @property
    def compression(self) -> int:
        return self.value(_COMPRESSION, 1)

    @property
    def predicted(self) -> bool:
        return self.value(_PREDICTOR, 1) == 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples in the file, byte order included."""
        return np.dtype(np.uint8) if self.bits == 8 else np.dtype(f"{self.order}u2")


def first_directory(data: bytes, name: str) -> tuple[Directory, int]:
    """The first directory, whatever it says, and the offset of the next one (0: none).

    Raises:
        ItemError: `image.truncated`.
    """
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        tags = dict(_tag(data, order, start + 2 + 12 * i) for i in range(count))
        (following,) = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
    except struct.error as error:
        raise ItemError("image.truncated", f"{name}: the TIFF directory is cut ({error}); export it again") from error
    return Directory(order, tags), following


def directory(data: bytes, name: str) -> Directory:
    """Read and check the image directory.

    Raises:
        ItemError: `image.truncated`, `image.multi_frame`, `image.unsupported`.
    """
    found, following = first_directory(data, name)
    if following:
        raise ItemError("image.multi_frame", f"{name}: a TIFF with several pages; give one page alone")
    _check_supported(found, name)
    (across, down), (width, height) = found.grid, found.block
    if not found.width or not found.height or not width or not height or len(found.strips) != across * down:
        raise ItemError("image.truncated", f"{name}: {len(found.strips)} strips or tiles do not make the picture")
    if found.tiled and across * width * down * height > _MOST_PADDED * found.width * found.height + _ONE_TILE_PX:
        raise ItemError("image.unsupported", f"{name}: tiles of {width} x {height} px are mostly padding; convert it")
    if any(offset + size > len(data) for offset, size in found.strips):
        raise ItemError("image.truncated", f"{name}: a strip lies past the end of the file; export it again")
    return found


def without_tag(data: bytes, tag: int) -> bytes:
    """The file with a tag's entry taken out of the first directory and its values zeroed; nothing else moves."""
    found, _ = first_directory(data, "TIFF")
    out, order = bytearray(data), found.order
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = range(start + 2, start + 2 + 12 * count, 12)
    at = next((at for at in entries if struct.unpack_from(order + "H", data, at) == (tag,)), None)
    if at is None:
        return data
    entry = found.tags[tag]
    out[entry.at : entry.at + len(entry.raw)] = bytes(len(entry.raw))
    # The entries behind it and the link to the next directory move up by one; 12 bytes are left over.
    end = start + 2 + 12 * count + 4
    out[at : end - 12], out[end - 12 : end] = out[at + 12 : end], bytes(12)
    struct.pack_into(order + "H", out, start, count - 1)
    return bytes(out)


def with_shorter_values(data: bytes, tag: int, values: bytes) -> bytes:
    """The file with bytes that are no more than a tag's as its values, in their place; what is left over is zeroed."""
    found, _ = first_directory(data, "TIFF")
    entry, out = found.tags[tag], bytearray(data)
    if len(entry.raw) <= 4 or len(values) <= 4 or len(values) > len(entry.raw) or _SIZES[entry.kind] != 1:
        return data
    out[entry.at : entry.at + len(entry.raw)] = values.ljust(len(entry.raw), b"\0")
    (start,) = struct.unpack_from(found.order + "I", data, 4)
    struct.pack_into(found.order + "I", out, start + 2 + 12 * list(found.tags).index(tag) + 4, len(values))
    return bytes(out)


def with_tag(data: bytes, tag: int, values: bytes, name: str) -> bytes:
    """The file with these bytes (more than four) as a tag's values, at its end; a tag's old values are zeroed.

    A tag that was not there makes the directory longer: it is written anew behind them.

    Raises:
        ItemError: `provenance.no_room` -- the file would be too long for a TIFF.
    """
    found, _ = first_directory(data, name)
    order, old = found.order, found.tags.get(tag)
    out = bytearray(data + b"\0" * (len(data) % 2))
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = {
        struct.unpack_from(order + "H", data, at)[0]: data[at : at + 12]
        for at in range(start + 2, start + 2 + 12 * count, 12)
    }
    if len(out) + len(values) + 12 * count + 32 > 0xFFFFFFFF:
        raise ItemError("provenance.no_room", f"{name}: a TIFF of {len(data):,} bytes has no room for XMP; use BigTIFF")
    entry = struct.pack(order + "HHII", tag, old.kind if old else 1, len(values), len(out))
    out += values + b"\0" * (len(values) % 2)
    if old is not None:
        out[old.at : old.at + len(old.raw)] = bytes(len(old.raw))
        struct.pack_into("12s", out, start + 2 + 12 * list(entries).index(tag), entry)
        return bytes(out)
    entries[tag] = entry
    following = data[start + 2 + 12 * count : start + 6 + 12 * count]
    struct.pack_into(order + "I", out, 4, len(out))
    out += struct.pack(order + "H", len(entries)) + b"".join(entries[key] for key in sorted(entries)) + following
    return bytes(out)


def _tag(data: bytes, order: str, at: int) -> tuple[int, Tag]:
    tag, kind, count = struct.unpack_from(order + "HHI", data, at)
    size = _SIZES.get(kind, 0) * count
    start = at + 8 if size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
    raw = data[start : start + size]
    if len(raw) < size:
        raise struct.error(f"tag {tag} is cut")
    return tag, Tag(kind, count, start, raw)


def _check_supported(found: Directory, name: str) -> None:
    _, colours = _MODELS.get(found.value(_PHOTOMETRIC, 1), ("rgb", 0))
    extra = found.values(_EXTRA, ())
    problems = {
        f"bits {found.values(_BITS, ())}": set(found.values(_BITS, (1,))) not in ({8}, {16}),
        f"photometric {found.value(_PHOTOMETRIC, 1)}": not colours,
        f"{found.channels} samples": found.channels - colours not in (0, 1),
        "extra samples that are not plain alpha": found.channels > colours and extra != (_UNASSOCIATED_ALPHA,),
        "planes": found.channels > 1 and found.value(_PLANAR, 1) != 1,
        f"compression {found.compression}": found.compression not in _COMPRESSIONS,
        f"predictor {found.value(_PREDICTOR, 1)}": found.value(_PREDICTOR, 1) not in (1, 2),
        "signed or float samples": set(found.values(_FORMAT, (1,))) != {1},
        "reversed bits": found.value(_FILL_ORDER, 1) != 1,
    }
    found_problems = [text for text, present in problems.items() if present]
    if found_problems:
        raise ItemError(
            "image.unsupported",
            f"{name}: a TIFF with {', '.join(found_problems)}; supported are 8 and 16 bits grey, RGB and CMYK, plain "
            "alpha, in strips or tiles, uncompressed or LZW, Deflate, PackBits; convert it",
        )
