"""PNG files: checked chunk by chunk, pixels by libraries, everything else carried over byte for byte."""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.previews.xmp import without_stale

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
CREDENTIALS: Final = b"caBX"
"""The chunk of a C2PA manifest store."""
XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
_RAW_EXIF: Final = (b"Raw profile type exif", b"Raw profile type APP1")
MAX_TEXT_BYTES: Final = 1 << 24
"""Of one compressed text, unpacked."""
HEADER_END: Final = len(SIGNATURE) + 25
"""Where the header chunk ends."""
_CHUNK_BYTES: Final = 1 << 20
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS: Final = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}


@dataclass(frozen=True, slots=True)
class Chunks:
    """A PNG taken apart: header fields and all chunks in order."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    items: tuple[tuple[bytes, bytes | memoryview], ...]
    """(kind, payload); image data is a view of the file, so that a parsed file costs no second copy."""
    trailing: bytes

    @property
    def has_palette(self) -> bool:
        return self.colour == _PALETTE

    @property
    def stores_alpha(self) -> bool:
        return self.colour in (_GREY_ALPHA, _RGB_ALPHA)

    @property
    def channels(self) -> int:
        """Samples stored per pixel: 1 for a palette."""
        return _CHANNELS[self.colour]

    @property
    def colour_key(self) -> npt.NDArray[np.uint16] | None:
        """The grey or RGB value that `tRNS` declares transparent, or None."""
        key = self.first(b"tRNS")
        return np.frombuffer(key, ">u2").astype(np.uint16) if key and self.colour in (_GREY, _RGB) else None

    def first(self, kind: bytes) -> bytes | None:
        return next((bytes(payload) for name, payload in self.items if name == kind), None)

    @property
    def image_data(self) -> bytes:
        """The zlib stream of the pixels."""
        return b"".join(payload for kind, payload in self.items if kind == b"IDAT")


def chunks(data: bytes, name: str) -> Chunks:
    """Split and check lengths, checksums and header.

    Raises:
        ItemError: `image.truncated`, `image.unsupported`, `image.multi_frame` (APNG).
    """
    items: list[tuple[bytes, bytes | memoryview]] = []
    at, view = len(SIGNATURE), memoryview(data)
    while not items or items[-1][0] != b"IEND":
        size = int.from_bytes(data[at : at + 4], "big")
        kind, payload = data[at + 4 : at + 8], view[at + 8 : at + 8 + size]
        checksum = data[at + 8 + size : at + 12 + size]
        whole = len(payload) == size and len(checksum) == 4
        if not whole or zlib.crc32(payload, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ItemError("image.truncated", f"{name}: PNG chunk {kind!r} at byte {at} is damaged; export it again")
        items.append((kind, payload if kind == b"IDAT" else bytes(payload)))
        at += 12 + size
    if items[0][0] != b"IHDR" or len(items[0][1]) != 13:
        raise ItemError("image.truncated", f"{name}: the PNG does not begin with its header; export it again")
    header = bytes(items[0][1])
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    if any(kind == b"acTL" for kind, _ in items):
        raise ItemError("image.multi_frame", f"{name}: an animated PNG; give one frame alone")
    if depth not in _DEPTHS.get(colour, ()):
        raise ItemError(
            "image.unsupported",
            f"{name}: PNG colour type {colour} with {depth} bits; supported are 8 and 16 bits grey and RGB, "
            "with alpha or without, and palettes; convert it",
        )
    if not width or not height:
        raise ItemError("image.truncated", f"{name}: the PNG header says {width} x {height}; export it again")
    return Chunks(width, height, depth, colour, header[12] != 0, tuple(items), data[at:])


def image_data(parts: Chunks, coded: bytes, name: str) -> bytes:
    """The image data of `coded`, a PNG that must be laid out as `parts` is.

    Raises:
        ItemError: `image.unsupported` where `coded` has another size, depth or colour type than the original.
    """
    fresh = chunks(coded, name)
    if (fresh.width, fresh.height, fresh.depth, fresh.colour) != (parts.width, parts.height, parts.depth, parts.colour):
        raise ItemError("image.unsupported", f"{name}: the PNG encoder changed depth or colour type; use TIFF")
    return fresh.image_data


def reassemble(parts: Chunks, data: bytes, new_exif: bytes | None) -> bytes:
    """The original's chunks with `data`, a zlib stream, as the image data; interlace becomes none, credentials go.

    `new_exif` replaces the eXIf payload where given.
    """
    out, placed = [SIGNATURE], False
    for kind, payload in parts.items:
        if kind == b"IHDR":
            out.append(chunk(kind, bytes(payload[:12]) + b"\0"))
        elif kind == b"eXIf" and new_exif is not None:
            out.append(chunk(kind, new_exif))
        elif kind not in (b"IDAT", CREDENTIALS):
            out.append(chunk(kind, fresh_xmp(payload) if is_xmp(kind, payload) else payload))
        elif kind == b"IDAT" and not placed:
            out.extend(chunk(kind, data[at : at + _CHUNK_BYTES]) for at in range(0, len(data), _CHUNK_BYTES))
            placed = True
    return b"".join([*out, parts.trailing])


def chunk(kind: bytes, payload: bytes | memoryview) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(payload)), kind, payload, struct.pack(">I", checksum)])


def metadata(parts: Chunks) -> list[tuple[str, bytes]]:
    """Every chunk but the image data, in order; the header without its interlace flag, EXIF and XMP without
    thumbnails."""
    kept = []
    for kind, payload in parts.items:
        if kind == b"IDAT":
            continue
        held = bytes(payload)
        if kind == b"IHDR":
            held = held[:12]
        elif kind == b"eXIf":
            held = exif.without_thumbnail(held)
        elif is_xmp(kind, held):
            held = fresh_xmp(held)
        kept.append((kind.decode("latin-1"), held))
    return [*kept, ("trailing", parts.trailing)]


def raw_exif(parts: Chunks) -> bytes | None:
    """The EXIF block that ImageMagick writes as a text, "Raw profile type exif" or "APP1"; None where it is damaged, as
    orientations are that are."""
    for kind, payload in parts.items:
        if kind not in (b"tEXt", b"zTXt"):
            continue
        keyword, _, text = bytes(payload).partition(b"\0")
        if keyword not in _RAW_EXIF:
            continue
        try:
            text = zlib.decompressobj().decompress(text[1:], MAX_TEXT_BYTES) if kind == b"zTXt" else text
            _, size, digits = text.split(None, 2)
            block = bytes.fromhex(digits.decode("ascii"))[: int(size)].removeprefix(b"Exif\0\0")
        except (ValueError, zlib.error):
            return None
        return block if block[:4] in (b"II*\0", b"MM\0*") else None
    return None


def is_xmp(kind: bytes, payload: bytes | memoryview) -> bool:
    return kind == b"iTXt" and bytes(payload[: len(XMP_KEYWORD) + 1]) == XMP_KEYWORD + b"\0"


def international_text(payload: bytes) -> bytes:
    """The text of an `iTXt` chunk, unpacked where it is compressed.

    Raises:
        IndexError, ValueError, zlib.error: it is damaged, or longer than `MAX_TEXT_BYTES`.
    """
    _, rest = payload.split(b"\0", 1)
    compressed, text = rest[0], rest[2:].split(b"\0", 2)[2]
    if not compressed:
        return text
    inflater = zlib.decompressobj()
    unpacked = inflater.decompress(text, MAX_TEXT_BYTES)
    if not inflater.eof:
        raise ValueError("its text is cut, or too long")
    return unpacked


def fresh_xmp(payload: bytes | memoryview) -> bytes:
    """The payload of an XMP chunk without what no edit may leave; compressed if it was. A damaged one stays."""
    held = bytes(payload)
    try:
        packet = international_text(held)
    except (ValueError, IndexError, zlib.error):
        return held
    clean = without_stale(packet)
    if clean == packet:
        return held
    compressed = held[len(XMP_KEYWORD) + 1]
    head = XMP_KEYWORD + bytes([0, compressed]) + bytes(3)  # no language, no translated keyword
    return head + (zlib.compress(clean) if compressed else clean)


def image_only(parts: Chunks) -> bytes:
    """The same pixels without ancillary chunks, so that no decoder acts on them."""
    kept = (chunk(kind, payload) for kind, payload in parts.items if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"))
    return b"".join([SIGNATURE, *kept])
