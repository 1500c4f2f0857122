"""TIFF files, edited strip by strip in place: every other byte of the file stays where it is."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats.tiff_strips import COMPRESSIONS, pack, unpack
from refine_ops.image.source import Model, Native, Samples, check_size

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _EXTRA, _FORMAT, _ICC = 317, 322, 338, 339, 34675
_LAYOUTS: Final = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MODELS: Final[dict[int, tuple[Model, int]]] = {1: ("grey", 1), 2: ("rgb", 3), 5: ("cmyk", 4)}
_UNASSOCIATED_ALPHA: Final = 2


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
        layout = _LAYOUTS.get(entry.kind) if entry else None
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
    def rows_per_strip(self) -> int:
        return min(self.value(_ROWS, self.height), self.height)

    @property
    def row_bytes(self) -> int:
        return self.width * self.channels * self.bits // 8

    @property
    def strips(self) -> list[tuple[int, int]]:
        """(offset, bytes) of every strip, top to bottom."""
        return list(zip(self.values(_OFFSETS, ()), self.values(_COUNTS, ()), strict=False))

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


def directory(data: bytes, name: str) -> Directory:
    """Read and check the image directory.

    Raises:
        ItemError: `image.truncated`, `image.multi_frame`, `image.unsupported`.
    """
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        tags = dict(_tag(data, order, start + 2 + 12 * i) for i in range(count))
        (following,) = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
    except struct.error as error:
        raise ItemError("image.truncated", f"{name}: the TIFF directory is cut ({error}); export it again") from error
    if following:
        raise ItemError("image.multi_frame", f"{name}: a TIFF with several pages; extract the one to refine")
    found = Directory(order, tags)
    _check_supported(found, name)
    if not found.width or not found.height or len(found.strips) != -(-found.height // max(found.rows_per_strip, 1)):
        raise ItemError("image.truncated", f"{name}: {len(found.strips)} strips do not make {found.height} rows")
    if any(offset + size > len(data) for offset, size in found.strips):
        raise ItemError("image.truncated", f"{name}: a strip lies past the end of the file; export it again")
    return found


def decode(data: bytes, name: str, limits: ImageLimits) -> Native:
    """Samples of 8- or 16-bit grey, RGB or CMYK strips, with unassociated alpha, not turned.

    Raises:
        ItemError: as `directory`, and `image.too_large`.
    """
    found = directory(data, name)
    check_size(found.width, found.height, name, limits)
    strips = [data[offset : offset + size] for offset, size in found.strips]
    try:
        raw = unpack(strips, found.row_bytes, found.height, found.rows_per_strip, found.compression)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise ItemError("image.truncated", f"{name}: damaged TIFF strips ({error}); export it again") from error
    samples = raw.view(found.dtype).reshape(found.height, found.width, found.channels)
    samples = samples.astype(samples.dtype.newbyteorder("="))
    if found.predicted:
        np.cumsum(samples, axis=1, dtype=samples.dtype, out=samples)
    model, colours = _MODELS[found.value(_PHOTOMETRIC, 1)]
    icc = found.tags.get(_ICC)
    orientation = found.value(_ORIENTATION, 1)
    return Native(
        samples, model, found.channels > colours, orientation if 1 <= orientation <= 8 else 1, icc.raw if icc else None
    )


def encode(data: bytes, name: str, before: Samples, after: Samples) -> bytes:
    """`data` with the strips rewritten in which `after` differs from `before`.

    A strip that still fits is written where it was, a longer one is appended; only its entries in the two strip tables
    change.

    Raises:
        ItemError: `tiff.refused` where the strip tables are too narrow for the new offsets.
    """
    found = directory(data, name)
    out = bytearray(data)
    offsets, counts = (list(found.values(tag, ())) for tag in (_OFFSETS, _COUNTS))
    for index, (offset, size) in enumerate(found.strips):
        rows = slice(index * found.rows_per_strip, (index + 1) * found.rows_per_strip)
        if np.array_equal(before[rows], after[rows]):
            continue
        packed = pack(_differenced(after[rows], found), found.compression)
        if len(packed) > size:
            out += b"\0" * (len(out) % 2)
            offset = offsets[index] = len(out)
        out[offset : offset + len(packed)] = packed
        counts[index] = len(packed)
    try:
        for tag, values in ((_OFFSETS, offsets), (_COUNTS, counts)):
            entry = found.tags[tag]
            struct.pack_into(f"{found.order}{len(values)}{_LAYOUTS[entry.kind]}", out, entry.at, *values)
    except struct.error as error:
        raise ItemError("tiff.refused", f"{name}: its strip tables cannot hold longer strips; use BigTIFF") from error
    return bytes(out)


def judge(data: bytes, name: str) -> Samples | None:
    """Samples through a library's own TIFF reader: Pillow for 8 bits, OpenCV for 16; None where it cannot read them.

    Both turn TIFFs upright as they read, so they are shown a copy whose orientation tag says 1.
    """
    found = directory(data, name)
    if _ORIENTATION in found.tags:
        turned = bytearray(data)
        struct.pack_into(f"{found.order}H", turned, found.tags[_ORIENTATION].at, 1)
        data = bytes(turned)
    if found.bits == 8:
        with Image.open(BytesIO(data), formats=["TIFF"]) as image:
            samples = np.asarray(image)
    else:
        samples = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        if samples.ndim == 3:
            samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    if samples.ndim < 2:
        return None
    return samples if samples.ndim == 3 else samples[:, :, None]


def metadata(found: Directory) -> list[tuple[str, bytes]]:
    """Every tag's values but the strip tables'."""
    return [(str(tag), entry.raw) for tag, entry in found.tags.items() if tag not in (_OFFSETS, _COUNTS)]


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
        "tiles": _TILE_WIDTH in found.tags,
        f"bits {found.values(_BITS, ())}": set(found.values(_BITS, (1,))) not in ({8}, {16}),
        f"photometric {found.value(_PHOTOMETRIC, 1)}": not colours,
        f"{found.channels} samples": found.channels - colours not in (0, 1),
        "extra samples that are not plain alpha": found.channels > colours and extra != (_UNASSOCIATED_ALPHA,),
        "planes": found.channels > 1 and found.value(_PLANAR, 1) != 1,
        f"compression {found.compression}": found.compression not in COMPRESSIONS,
        f"predictor {found.value(_PREDICTOR, 1)}": found.value(_PREDICTOR, 1) not in (1, 2),
        "signed or float samples": set(found.values(_FORMAT, (1,))) != {1},
        "reversed bits": found.value(_FILL_ORDER, 1) != 1,
    }
    found_problems = [text for text, present in problems.items() if present]
    if found_problems:
        raise ItemError(
            "image.unsupported",
            f"{name}: a TIFF with {', '.join(found_problems)}; supported are 8 and 16 bits grey, RGB and CMYK, plain "
            "alpha, in strips, uncompressed or LZW, Deflate, PackBits; convert it",
        )


def _differenced(samples: Samples, found: Directory) -> npt.NDArray[np.uint8]:
    """Rows of bytes as they are packed: predictor applied, file byte order."""
    if found.predicted:
        samples = np.concatenate([samples[:, :1], samples[:, 1:] - samples[:, :-1]], axis=1)
    stored = np.ascontiguousarray(samples.astype(found.dtype))
    return stored.view(np.uint8).reshape(len(samples), -1)
