"""WebP files: RIFF chunks carried over byte for byte around a losslessly coded image."""

import struct
from collections.abc import Sequence
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
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.edit import Edit, Encoded, NewFile
from refine_ops.image.formats.native import Native, check_size, expand_grey, rgb_order
from refine_ops.image.formats.previews.thumbnail import fresh_exif
from refine_ops.image.formats.previews.xmp import without_stale

_EXIF: Final = b"Exif\0\0"
_CREDENTIALS: Final = b"C2PA"
_PIXELS: Final = (b"VP8 ", b"VP8L", b"ALPH")
_ICC_FLAG, _ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG, _ANIMATION_FLAG = 0x20, 0x10, 0x08, 0x04, 0x02
MAX_SIDE_PX: Final = 16383
_EFFORT: Final = 2
"""libwebp method 0-6 for lossless: 2 is 3 times as fast as 4 and under 2 % larger."""


@dataclass(frozen=True, slots=True)
class Riff:
    """A WebP taken apart."""

    items: tuple[tuple[bytes, bytes | memoryview], ...]
    """(kind, payload), payloads as views of the file."""
    trailing: bytes

    @property
    def lossless(self) -> bool:
        return any(kind == b"VP8L" for kind, _ in self.items)

    def first(self, kind: bytes) -> bytes | None:
        return next((bytes(payload) for name, payload in self.items if name == kind), None)


def riff(data: bytes, name: str) -> Riff:
    """Split and check lengths.

    Raises:
        ItemError: `image.truncated`, `image.multi_frame`.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ItemError("image.truncated", f"{name}: {len(data)} of {end} bytes of WebP; export it again")
    items: list[tuple[bytes, bytes | memoryview]] = []
    at, view = 12, memoryview(data)
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > end:
            raise ItemError("image.truncated", f"{name}: WebP chunk {data[at : at + 4]!r} is cut; export it again")
        items.append((data[at : at + 4], view[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    parts = Riff(tuple(items), data[end:])
    extended = parts.first(b"VP8X") or b""
    if (extended and extended[0] & _ANIMATION_FLAG) or parts.first(b"ANIM") is not None:
        raise ItemError("image.multi_frame", f"{name}: an animated WebP; give one frame alone")
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class WebpFile(ParsedFile):
    """A still WebP; edited ones are written losslessly."""

    riff: Riff

    format = "webp"
    suffix = ".webp"
    reads = "WebP (still)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:4] == b"RIFF" and data[8:12] == b"WEBP"

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        return cls(data, name, riff(data, name))

    def decode(self, limits: ImageLimits) -> Native:
        """RGB or RGBA samples, 8 bits."""
        parts, name = self.riff, self.name
        check_size(*_size(parts, name), name, limits)
        try:
            with Image.open(BytesIO(self.data[: len(self.data) - len(parts.trailing)]), formats=["WEBP"]) as image:
                if image.mode not in ("RGB", "RGBA"):
                    raise ItemError("image.unsupported", f"{name}: WebP mode {image.mode}; convert it")
                samples = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise ItemError("image.truncated", f"{name}: damaged WebP ({error}); export it again") from error
        turn = exif.orientation(self.exif() or b"")
        return Native(samples, "rgb", samples.shape[2] == 4, turn, parts.first(b"ICCP"))

    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        """OpenCV: Pillow wrote it."""
        native = self.decode(limits)
        decoded = cv2.imdecode(np.frombuffer(self.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise ItemError("image.unsupported", f"{self.name}: OpenCV does not read it")
        return replace(native, samples=rgb_order(decoded)), "OpenCV"

    def edit(self, edit: Edit) -> Encoded:
        if not self.riff.lossless and edit.settings.webp_lossy == "refuse":
            raise ItemError(
                "webp.lossy",
                f"{self.name}: a lossy WebP re-encoded lossily changes everywhere; set write.webp_lossy to 'lossless'",
            )
        data = reassemble(self.riff, encode(edit.after), fresh_exif(self.exif(), edit))
        return Encoded(data, self.format)

    def metadata(self) -> list[tuple[str, bytes]]:
        """Every chunk but the image data, in order; EXIF and XMP without thumbnails."""
        kept = []
        for kind, payload in self.riff.items:
            if kind in _PIXELS:
                continue
            held = bytes(payload)
            if kind == b"EXIF":
                held = exif.without_thumbnail(held.removeprefix(_EXIF))
            elif kind == b"XMP ":
                held = without_stale(held)
            kept.append((kind.decode("latin-1"), held))
        return [*kept, ("trailing", self.riff.trailing)]

    def credentials(self) -> list[tuple[str, bytes]]:
        return [entry for entry in self.metadata() if entry[0] == _CREDENTIALS.decode()]

    def exif(self) -> bytes | None:
        """Without the `Exif\\0\\0` prefix some writers add."""
        block = self.riff.first(b"EXIF")
        return block.removeprefix(_EXIF) if block else None

    def xmp(self) -> bytes | None:
        return self.riff.first(b"XMP ")

    def with_xmp(self, packet: bytes) -> bytes:
        """A new chunk lies behind image and EXIF; the header says that it is there, and is made where there is none."""
        parts = self.riff
        items = [(kind, payload) for kind, payload in parts.items if kind != b"XMP "]
        was = next((i for i, (kind, _) in enumerate(parts.items) if kind == b"XMP "), None)
        behind = max(i for i, (kind, _) in enumerate(items) if kind in (*_PIXELS, b"EXIF")) + 1
        items.insert(behind if was is None else was, (b"XMP ", packet))
        header = parts.first(b"VP8X")
        if header is None:
            header, items = (
                _extended_header(_size(parts, self.name), _ALPHA_FLAG * _has_alpha(parts)),
                [(b"VP8X", b""), *items],
            )
        header = bytes([header[0] | _XMP_FLAG]) + header[1:]
        return join([(kind, header if kind == b"VP8X" else payload) for kind, payload in items]) + parts.trailing

    @classmethod
    def create(cls, new: NewFile, name: str) -> bytes:
        height, width = new.samples.shape[:2]
        wide = max(height, width) > MAX_SIDE_PX
        if new.samples.dtype == np.uint16 or wide or (new.model == "grey" and new.icc):
            raise ItemError(
                "image.unsupported",
                f"{name}: lossless WebP holds 8-bit RGB up to {MAX_SIDE_PX} px a side; use output_format: png",
            )
        extra = {b"ICCP": new.icc, b"EXIF": new.exif, b"XMP ": new.xmp}
        rgb = expand_grey(new.samples) if new.model == "grey" else new.samples
        return container(encode(rgb), (width, height), new.alpha, {k: v for k, v in extra.items() if v})


def encode(samples: npt.NDArray[np.uint8]) -> bytes:
    """The VP8L payload of RGB or RGBA samples; RGB under transparent pixels is kept (`exact`)."""
    out = BytesIO()
    Image.fromarray(samples).save(out, "WEBP", lossless=True, exact=True, quality=50, method=_EFFORT)
    payload = riff(out.getvalue(), "encoded WebP").first(b"VP8L")
    if payload is None:
        raise ItemError("image.unsupported", "this Pillow writes no lossless WebP; install one with libwebp")
    return payload


def reassemble(parts: Riff, coded: bytes, new_exif: bytes | None) -> bytes:
    """The original's chunks with the VP8L payload `coded` in the place of its image, without credentials.

    `new_exif` replaces EXIF where given.
    """
    kept: list[tuple[bytes, bytes | memoryview]] = []
    for kind, payload in parts.items:
        if kind in _PIXELS:
            if not any(k == b"VP8L" for k, _ in kept):
                kept.append((b"VP8L", coded))
        elif kind == b"EXIF" and new_exif is not None:
            prefix = _EXIF if payload[: len(_EXIF)] == _EXIF else b""
            kept.append((kind, prefix + new_exif))
        elif kind == b"XMP ":
            kept.append((kind, without_stale(bytes(payload))))
        elif kind != _CREDENTIALS:
            kept.append((kind, payload))
    return join(kept) + parts.trailing


def container(coded: bytes, size: tuple[int, int], alpha: bool, extra: dict[bytes, bytes]) -> bytes:
    """A new WebP around `coded`, with `extra` chunks out of ICCP, EXIF and `XMP `."""
    flags = _ALPHA_FLAG * alpha
    for kind, flag in ((b"ICCP", _ICC_FLAG), (b"EXIF", _EXIF_FLAG), (b"XMP ", _XMP_FLAG)):
        flags |= flag * (kind in extra)
    header = _extended_header(size, flags)
    first = [(b"ICCP", extra[b"ICCP"])] if b"ICCP" in extra else []
    last = [(kind, extra[kind]) for kind in (b"EXIF", b"XMP ") if kind in extra]
    return join([(b"VP8X", header), *first, (b"VP8L", coded), *last])


def _extended_header(size: tuple[int, int], flags: int) -> bytes:
    return struct.pack("<I", flags) + struct.pack("<I", size[0] - 1)[:3] + struct.pack("<I", size[1] - 1)[:3]


def _has_alpha(parts: Riff) -> bool:
    """Of a file without an extended header: what its lossless image says; a lossy one has none."""
    lossless = parts.first(b"VP8L")
    return bool(lossless and lossless[4] & 0x10)


def join(items: Sequence[tuple[bytes, bytes | memoryview]]) -> bytes:
    body = b"".join(b"".join([k, struct.pack("<I", len(p)), p, b"\0" * (len(p) % 2)]) for k, p in items)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _size(parts: Riff, name: str) -> tuple[int, int]:
    """Of the coded image itself; the canvas that VP8X states must agree, or libwebp refuses the file later."""
    lossless, lossy = parts.first(b"VP8L"), parts.first(b"VP8 ")
    if lossless and len(lossless) >= 5 and lossless[0] == 0x2F:
        bits = int.from_bytes(lossless[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if lossy and len(lossy) >= 10 and lossy[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ItemError("image.truncated", f"{name}: no image data in the WebP; export it again")
