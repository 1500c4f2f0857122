"""PNG files: checked chunk by chunk, pixels by libraries, everything else carried over byte for byte."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import exif
from refine_ops.image.source import Model, Native, Samples, check_size

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS: Final = {_GREY: (8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8,), _RGB_ALPHA: (8, 16)}
_MAX_PROFILE_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Chunks:
    """A PNG taken apart: header fields and all chunks in order."""

    width: int
    height: int
    depth: int
    colour: int
    items: tuple[tuple[bytes, bytes], ...]
    trailing: bytes

    @property
    def has_palette(self) -> bool:
        return self.colour == _PALETTE

    @property
    def colour_key(self) -> npt.NDArray[np.uint16] | None:
        """The grey or RGB value that `tRNS` declares transparent, or None."""
        key = self.first(b"tRNS")
        return np.frombuffer(key, ">u2").astype(np.uint16) if key and self.colour in (_GREY, _RGB) else None

    def first(self, kind: bytes) -> bytes | None:
        return next((payload for name, payload in self.items if name == kind), None)


def chunks(data: bytes, name: str) -> Chunks:
    """Split and check lengths, checksums and header.

    Raises:
        ItemError: `image.truncated`, `image.unsupported`, `image.multi_frame` (APNG).
    """
    items: list[tuple[bytes, bytes]] = []
    at = len(SIGNATURE)
    while not items or items[-1][0] != b"IEND":
        size = int.from_bytes(data[at : at + 4], "big")
        kind, payload = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        checksum = data[at + 8 + size : at + 12 + size]
        if len(payload) < size or len(checksum) < 4 or zlib.crc32(kind + payload) != int.from_bytes(checksum, "big"):
            raise ItemError("image.truncated", f"{name}: PNG chunk {kind!r} at byte {at} is damaged; export it again")
        items.append((kind, payload))
        at += 12 + size
    if items[0][0] != b"IHDR" or len(items[0][1]) != 13:
        raise ItemError("image.truncated", f"{name}: the PNG does not begin with its header; export it again")
    width, height, depth, colour = struct.unpack_from(">IIBB", items[0][1])
    if any(kind == b"acTL" for kind, _ in items):
        raise ItemError("image.multi_frame", f"{name}: an animated PNG; extract the frame to refine")
    if depth not in _DEPTHS.get(colour, ()):
        raise ItemError(
            "image.unsupported",
            f"{name}: PNG colour type {colour} with {depth} bits; supported are 8 and 16 bits grey, RGB and RGBA, "
            "8 bits grey with alpha, and palettes; convert it",
        )
    if not width or not height:
        raise ItemError("image.truncated", f"{name}: the PNG header says {width} x {height}; export it again")
    return Chunks(width, height, depth, colour, tuple(items), data[at:])


def decode(data: bytes, name: str, limits: ImageLimits) -> Native:
    """Samples of every PNG kind; palettes and `tRNS` are expanded as the standard says, 16 bits stay 16.

    Raises:
        ItemError: as `chunks`, `image.too_large`, and `image.truncated` where the coded data is short or damaged.
    """
    parts = chunks(data, name)
    check_size(parts.width, parts.height, name, limits)
    try:
        samples = _samples_16(parts, name) if parts.depth == 16 else _samples_8(_image_only(parts))
        samples, alpha = _with_transparency(samples, parts)
        icc = _icc(parts)
    except (OSError, SyntaxError, ValueError, zlib.error, cv2.error) as error:
        raise ItemError("image.truncated", f"{name}: damaged PNG ({error}); export it again") from error
    block = parts.first(b"eXIf")
    model: Model = "grey" if samples.shape[2] <= 2 else "rgb"
    return Native(samples, model, alpha, exif.orientation(block) if block else 1, icc)


def indices(parts: Chunks) -> npt.NDArray[np.uint8]:
    """Palette entries `uint8 (H, W)` of a palette PNG."""
    with Image.open(BytesIO(_image_only(parts)), formats=["PNG"]) as image:
        return np.array(image)


def palette(parts: Chunks) -> npt.NDArray[np.uint8]:
    """`uint8 (N, 4)`: the palette's RGB with `tRNS` alpha (255 where absent)."""
    rgb = np.frombuffer(parts.first(b"PLTE") or b"", np.uint8)
    rgb = rgb[: len(rgb) // 3 * 3].reshape(-1, 3)
    alpha = np.full((len(rgb), 1), 255, np.uint8)
    given = np.frombuffer(parts.first(b"tRNS") or b"", np.uint8)[: len(rgb)]
    alpha[: len(given), 0] = given
    return np.concatenate([rgb, alpha], axis=1)


def encode(samples: Samples) -> bytes:
    """A plain PNG of grey, grey+alpha (8 bits), RGB or RGBA samples: no ancillary chunks."""
    if samples.shape[2] == 2:
        return _pillow_png(Image.fromarray(samples))
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[samples.shape[2]]
    done, coded = cv2.imencode(".png", np.ascontiguousarray(samples[..., order]), _CV_PARAMETERS)
    if not done:
        raise ItemError("image.unsupported", f"OpenCV cannot write a PNG of {samples.shape} {samples.dtype}")
    return bytes(coded)


def encode_palette(entries: npt.NDArray[np.uint8], parts: Chunks) -> bytes:
    """A palette PNG of `entries` at the depth of `parts`; its palette chunks are placeholders to be replaced."""
    image = Image.fromarray(entries)
    image.putpalette(palette(parts)[:, :3].tobytes())
    return _pillow_png(image, bits=parts.depth)


def reassemble(parts: Chunks, coded: bytes, name: str, new_exif: bytes | None) -> bytes:
    """The original's chunks with the image data of `coded` in the place of its own; interlace becomes none.

    `new_exif` replaces the eXIf payload where given.

    Raises:
        ItemError: `image.unsupported` where `coded` has another size, depth or colour type than the original.
    """
    fresh = chunks(coded, name)
    if (fresh.width, fresh.height, fresh.depth, fresh.colour) != (parts.width, parts.height, parts.depth, parts.colour):
        raise ItemError("image.unsupported", f"{name}: the PNG encoder changed depth or colour type; use TIFF")
    out, placed = [SIGNATURE], False
    for kind, payload in parts.items:
        if kind == b"IHDR":
            out.append(chunk(kind, payload[:12] + b"\0"))
        elif kind == b"eXIf" and new_exif is not None:
            out.append(chunk(kind, new_exif))
        elif kind != b"IDAT":
            out.append(chunk(kind, payload))
        elif not placed:
            out.extend(chunk(k, p) for k, p in fresh.items if k == b"IDAT")
            placed = True
    return b"".join([*out, parts.trailing])


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def metadata(parts: Chunks) -> list[tuple[str, bytes]]:
    """Every chunk but the image data, in order; the header without its interlace flag, EXIF without its thumbnail."""
    kept = []
    for kind, payload in parts.items:
        if kind == b"IHDR":
            payload = payload[:12]
        elif kind == b"eXIf":
            payload = exif.without_thumbnail(payload)
        if kind != b"IDAT":
            kept.append((kind.decode("latin-1"), payload))
    return [*kept, ("trailing", parts.trailing)]


def _image_only(parts: Chunks) -> bytes:
    """The same pixels without ancillary chunks, so that no decoder acts on them."""
    kept = (chunk(kind, payload) for kind, payload in parts.items if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"))
    return b"".join([SIGNATURE, *kept])


def _samples_8(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[:, :, None]


def _samples_16(parts: Chunks, name: str) -> npt.NDArray[np.uint16]:
    """Through OpenCV, which keeps 16 bits where Pillow reads RGB as 8."""
    _check_complete(parts, name)
    decoded = cv2.imdecode(np.frombuffer(_image_only(parts), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("OpenCV finds no 16-bit samples")
    decoded = decoded if decoded.ndim == 3 else decoded[:, :, None]
    return np.ascontiguousarray(decoded[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[decoded.shape[2]]])


def _check_complete(parts: Chunks, name: str) -> None:
    """OpenCV fills missing rows silently; count the bytes first (interlaced rows only add to the count)."""
    expected = parts.height * (1 + parts.width * _CHANNELS[parts.colour] * 2)
    inflater, found = zlib.decompressobj(), 0
    for kind, payload in parts.items:
        while kind == b"IDAT" and payload and found < expected:
            found += len(inflater.decompress(payload, 1 << 20))
            payload = inflater.unconsumed_tail
    if found < expected:
        raise ItemError("image.truncated", f"{name}: {found} of {expected} bytes of pixels; export it again")


def _with_transparency(samples: Samples, parts: Chunks) -> tuple[Samples, bool]:
    """Palette entries looked up, `tRNS` turned into an alpha channel; whether there is one."""
    if parts.has_palette:
        table, alpha = palette(parts), parts.first(b"tRNS") is not None
        if not len(table) or samples.max() >= len(table):
            raise ValueError("pixels name palette entries that do not exist")
        return table[:, : 3 + alpha][samples[..., 0]], alpha
    key = parts.colour_key
    if key is None:
        return samples, parts.colour in (_GREY_ALPHA, _RGB_ALPHA)
    if len(key) != samples.shape[2]:
        raise ValueError("its tRNS chunk has the wrong length")
    opaque = (samples != key).any(axis=2, keepdims=True)
    return np.concatenate([samples, opaque.astype(samples.dtype) * np.iinfo(samples.dtype).max], axis=2), True


def _icc(parts: Chunks) -> bytes | None:
    payload = parts.first(b"iCCP")
    if payload is None:
        return None
    start = payload.index(b"\0") + 2
    return zlib.decompressobj().decompress(payload[start:], _MAX_PROFILE_BYTES)


def _pillow_png(image: Image.Image, bits: int | None = None) -> bytes:
    out = BytesIO()
    image.save(out, "PNG", compress_level=_LEVEL, **({"bits": bits} if bits else {}))
    return out.getvalue()


_LEVEL: Final = 4
"""zlib level: 5 % larger than level 6 in half the time."""
_CV_PARAMETERS: Final = [cv2.IMWRITE_PNG_COMPRESSION, _LEVEL]
