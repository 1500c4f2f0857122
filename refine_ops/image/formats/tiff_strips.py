"""The samples of a TIFF, edited strip by strip or tile by tile in place: every other byte stays where it is."""

import struct
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.codec import ParsedFile, look_with_pillow, unit_floats
from refine_ops.image.formats.edit import Edit, Encoded
from refine_ops.image.formats.native import Model, Native, Samples, check_size, rgb_order, with_channels
from refine_ops.image.formats.previews import photoshop
from refine_ops.image.formats.previews.thumbnail import fresh_resources
from refine_ops.image.formats.previews.xmp import without_stale
from refine_ops.image.formats.tiff import (
    COUNTS,
    CREDENTIALS,
    DEFLATE,
    LAYOUTS,
    LZW,
    NONE,
    OFFSETS,
    OLD_DEFLATE,
    PACKBITS,
    PHOTOSHOP,
    XMP,
    Directory,
    directory,
    first_directory,
    with_shorter_values,
    with_tag,
    without_tag,
)

_PILLOW_NAMES: Final = {LZW: "tiff_lzw", PACKBITS: "packbits"}
_ROWS, _SHORT, _LONG = 278, 3, 4


@dataclass(frozen=True, slots=True, eq=False)
class TiffFile(ParsedFile):
    """A TIFF of one image in strips or tiles: 8- or 16-bit grey, RGB or CMYK, with unassociated alpha."""

    directory: Directory

    format = "tiff"
    suffix = ".tif"
    reads = "TIFF (8/16-bit strips or tiles)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:4] in (b"II*\0", b"MM\0*")

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        return cls(data, name, directory(data, name))

    def decode(self, limits: ImageLimits) -> Native:
        found = self.directory
        check_size(found.width, found.height, self.name, limits)
        samples = self._blocks()
        if found.tiled:
            (across, down), (width, height) = found.grid, found.block
            tiles = samples.reshape(down, across, height, width, found.channels).swapaxes(1, 2)
            whole = tiles.reshape(down * height, across * width, found.channels)
            samples = np.ascontiguousarray(whole[: found.height, : found.width])
        return Native(samples, found.model, found.alpha, exif.orientation(self.data), found.icc)

    def _blocks(self) -> Samples:
        """All rows of all strips or tiles below each other, the tiles' padding included."""
        found = self.directory
        height = len(found.strips) * found.block[1] if found.tiled else found.height
        strips = [self.data[offset : offset + size] for offset, size in found.strips]
        try:
            raw = unpack(strips, found.row_bytes, height, found.block[1], found.compression)
        except (OSError, SyntaxError, ValueError, zlib.error) as error:
            raise ItemError(
                "image.truncated", f"{self.name}: damaged TIFF strips ({error}); export it again"
            ) from error
        samples = raw.view(found.dtype).reshape(height, found.block[0], found.channels)
        samples = samples.astype(samples.dtype.newbyteorder("="))
        if found.predicted:
            np.cumsum(samples, axis=1, dtype=samples.dtype, out=samples)
        return samples

    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        """A library's own TIFF reader: Pillow for 8 bits, OpenCV for 16.

        Both turn TIFFs upright as they read, so they are shown a copy whose orientation tag says 1.
        """
        native, data = self.decode(limits), exif.with_orientation_1(self.data)
        if native.bits == 8:
            with Image.open(BytesIO(data), formats=["TIFF"]) as image:
                return replace(native, samples=with_channels(np.asarray(image))), "Pillow"
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise ItemError("image.unsupported", f"{self.name}: OpenCV does not read it")
        return replace(native, samples=rgb_order(decoded)), "OpenCV"

    @classmethod
    def look(cls, data: bytes, name: str, limits: ImageLimits) -> Native:
        """Tiles, planes, palettes, one bit, the first of several pages by Pillow; what that refuses (floats of several
        channels) by OpenCV. Both turn TIFFs upright as they read: see `decode_independently`."""
        still, found = exif.with_orientation_1(data), first_directory(data, name)[0]
        check_size(found.width, found.height, name, limits)
        try:
            native = look_with_pillow(cls.format, still, name, limits)
        except ItemError as error:
            decoded = cv2.imdecode(np.frombuffer(still, np.uint8), cv2.IMREAD_UNCHANGED)
            if decoded is None:
                raise
            try:
                samples = unit_floats(rgb_order(decoded)) if decoded.dtype.kind == "f" else rgb_order(decoded)
            except ValueError as problem:
                raise ItemError("image.unsupported", f"{name}: {problem}; convert it") from error
            model: Model = "grey" if samples.shape[2] == 1 else "rgb"
            native = Native(samples, model, samples.shape[2] == 4, icc=found.icc)
        return replace(native, orientation=exif.orientation(data))

    def edit(self, edit: Edit) -> Encoded:
        """A strip or tile that still fits is written where it was, a longer one is appended, as is one that shares its
        bytes with others; only its entries in the two tables change. A tile keeps its padding.

        Raises:
            ItemError: `tiff.refused` where the strip tables are too narrow for the new offsets.
        """
        found, out = self.directory, bytearray(self.data)
        offsets, counts = (list(found.values(tag, ())) for tag in found.tables)
        old = self._blocks() if found.tiled else edit.before
        sharing = Counter(offsets)
        for index, (offset, size) in enumerate(found.strips):
            place = found.place(index)
            fresh = edit.after[place]
            if np.array_equal(edit.before[place], fresh):
                continue
            if found.tiled:
                tile = old[index * found.block[1] : (index + 1) * found.block[1]].copy()
                tile[: fresh.shape[0], : fresh.shape[1]] = fresh
                fresh = tile
            packed = pack(_differenced(fresh, found), found.compression)
            if len(packed) > size or sharing[offset] > 1:
                out += b"\0" * (len(out) % 2)
                offset = offsets[index] = len(out)
            out[offset : offset + len(packed)] = packed
            counts[index] = len(packed)
        try:
            for tag, values in zip(found.tables, (offsets, counts), strict=True):
                entry = found.tags[tag]
                struct.pack_into(f"{found.order}{len(values)}{LAYOUTS[entry.kind]}", out, entry.at, *values)
        except struct.error as error:
            raise ItemError(
                "tiff.refused", f"{self.name}: its strip tables cannot hold longer strips; use BigTIFF"
            ) from error
        if XMP in found.tags:
            held = found.tags[XMP]
            out[held.at : held.at + len(held.raw)] = without_stale(held.raw)
        data = bytes(out)
        if PHOTOSHOP in found.tags:
            data = with_shorter_values(data, PHOTOSHOP, self._resources(edit))
        # Last, as the strip tables may lie in the entries that move.
        return Encoded(without_tag(data, CREDENTIALS), self.format)

    def _resources(self, edit: Edit) -> bytes:
        """Photoshop's, with a fresh thumbnail where it fits, else with none."""
        held = self.directory.tags[PHOTOSHOP].raw
        fresh = fresh_resources(held, edit)
        return fresh if len(fresh) <= len(held) else photoshop.without_thumbnails(held)

    def metadata(self) -> list[tuple[str, bytes]]:
        """Every tag's values but the strip tables'; Photoshop's resources and XMP without their thumbnails."""
        kept = [(tag, entry.raw) for tag, entry in self.directory.tags.items() if tag not in self.directory.tables]
        cleaned = {PHOTOSHOP: photoshop.without_thumbnails, XMP: without_stale}
        return [(str(tag), cleaned[tag](raw) if tag in cleaned else raw) for tag, raw in kept]

    def credentials(self) -> list[tuple[str, bytes]]:
        return [entry for entry in self.metadata() if entry[0] == str(CREDENTIALS)]

    def exif(self) -> bytes | None:
        """None: its tags lie among those of the image, and offsets into the file would dangle elsewhere."""
        return None

    def xmp(self) -> bytes | None:
        found = self.directory.tags.get(XMP)
        return found.raw if found else None

    def with_xmp(self, packet: bytes) -> bytes:
        return with_tag(self.data, XMP, packet, self.name)


def unpack(strips: list[bytes], row_bytes: int, height: int, rows: int, compression: int) -> npt.NDArray[np.uint8]:
    """`uint8 (height, row_bytes)` from packed strips of `rows` rows each.

    The strips are shown to libtiff as a grey picture of bytes, so that one decoder serves every depth and colour, and
    no tag of the file acts on the samples.

    Raises:
        OSError, ValueError: The strips are damaged or short.
    """
    if compression == NONE:
        raw = np.frombuffer(b"".join(strips), np.uint8)
        if len(raw) < row_bytes * height:
            raise ValueError(f"{len(raw)} of {row_bytes * height} bytes")
        return raw[: row_bytes * height].reshape(height, row_bytes)
    picture = _byte_picture(strips, row_bytes, height, rows, compression)
    with Image.open(BytesIO(picture), formats=["TIFF"]) as image:
        return np.array(image)


def pack(rows: npt.NDArray[np.uint8], compression: int) -> bytes:
    """One strip of `uint8 (rows, row_bytes)`."""
    if compression == NONE:
        return rows.tobytes()
    if compression in (DEFLATE, OLD_DEFLATE):
        return zlib.compress(rows.tobytes())
    out = BytesIO()
    Image.fromarray(rows).save(out, "TIFF", compression=_PILLOW_NAMES[compression], tiffinfo={_ROWS: len(rows)})
    with Image.open(out, formats=["TIFF"]) as image:
        offset, size = (int(np.ravel(image.getexif()[tag])[0]) for tag in (OFFSETS, COUNTS))
    return out.getvalue()[offset : offset + size]


def _byte_picture(strips: list[bytes], width: int, height: int, rows: int, compression: int) -> bytes:
    """A little-endian grey 8-bit TIFF around already packed strips."""
    body = b"".join(strips)
    sizes = np.array([len(s) for s in strips], "<u4")
    starts = (8 + np.cumsum(sizes) - sizes).astype("<u4")
    tables_at, many = 8 + len(body), len(strips) > 1
    entries = [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, compression),
        (262, _SHORT, 1, 1),
        (OFFSETS, _LONG, len(strips), tables_at if many else int(starts[0])),
        (277, _SHORT, 1, 1),
        (_ROWS, _LONG, 1, rows),
        (COUNTS, _LONG, len(strips), tables_at + 4 * len(strips) if many else int(sizes[0])),
    ]
    listing = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + listing + bytes(4)
    tables: bytes = starts.tobytes() + sizes.tobytes()
    return b"II*\0" + struct.pack("<I", tables_at + len(tables)) + body + tables + directory


def _differenced(samples: Samples, found: Directory) -> npt.NDArray[np.uint8]:
    """Rows of bytes as they are packed: predictor applied, file byte order."""
    if found.predicted:
        samples = np.concatenate([samples[:, :1], samples[:, 1:] - samples[:, :-1]], axis=1)
    stored = np.ascontiguousarray(samples.astype(found.dtype))
    return stored.view(np.uint8).reshape(len(samples), -1)
