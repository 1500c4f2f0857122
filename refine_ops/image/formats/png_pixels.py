"""The pixels of a PNG: decoded and encoded by libraries, kept apart from everything else in the file."""

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif, png, png_rows
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.edit import Edit, Encoded, NewFile
from refine_ops.image.formats.native import Model, Native, Samples, check_size, expand_grey, rgb_order, with_channels
from refine_ops.image.formats.png import Chunks, image_only
from refine_ops.image.formats.png_palette import encode_entries, indices, nearest_entries, palette
from refine_ops.image.formats.previews.thumbnail import fresh_exif
from refine_ops.records import Mask

_MAX_PROFILE_BYTES: Final = 1 << 24
LEVEL: Final = 4
"""zlib level: 5 % larger than level 6 in half the time."""


@dataclass(frozen=True, slots=True, eq=False)
class PngFile(ParsedFile):
    """A PNG of any kind; palettes and `tRNS` are expanded as the standard says, 16 bits stay 16."""

    chunks: Chunks

    format = "png"
    suffix = ".png"
    reads = "PNG (8/16-bit, palette)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:8] == png.SIGNATURE

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        return cls(data, name, png.chunks(data, name))

    def decode(self, limits: ImageLimits) -> Native:
        """Pillow for 8 bits, OpenCV for 16."""
        parts = self.chunks
        check_size(parts.width, parts.height, self.name, limits)
        try:
            samples = _samples_16(parts, self.name) if parts.depth == 16 else _samples_8(image_only(parts))
            samples, alpha = _with_transparency(samples, parts)
            icc = _icc(parts)
        except (OSError, SyntaxError, ValueError, zlib.error, cv2.error) as error:
            raise ItemError("image.truncated", f"{self.name}: damaged PNG ({error}); export it again") from error
        model: Model = "grey" if samples.shape[2] <= 2 else "rgb"
        expanded = parts.depth < 8 and not parts.has_palette
        return Native(samples, model, alpha, exif.orientation(self.exif() or b""), icc, expanded)

    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        """The same libraries: rows are written by our own code. Where a PNG is coded as a whole (interlaced, palettes
        under 8 bits) one library is both."""
        native = self.decode(limits)
        return native, "Pillow" if native.bits == 8 else "OpenCV"

    def edit(self, edit: Edit) -> Encoded:
        parts = self.chunks
        if parts.has_palette:
            samples: Samples = nearest_entries(parts, edit.before, edit.after, self.name)[:, :, None]
        else:
            samples = edit.after if parts.colour_key is None else _off_key(edit.after, parts.colour_key)
        data = png_rows.splice(parts, samples, np.any(edit.support, axis=1))
        if data is None and parts.channels * parts.depth == 2 * 16:  # grey with alpha: no library here writes it
            data = png_rows.unfiltered(samples)
        if data is None:
            whole = encode_entries(samples[..., 0], parts) if parts.has_palette else encode_png(samples, LEVEL)
            data = png.image_data(parts, whole, self.name)
        return Encoded(png.reassemble(parts, data, fresh_exif(parts.first(b"eXIf"), edit)), self.format)

    def labels(self, native: Native) -> Samples | None:
        """Palette entries, or grey in the file's own 1 to 16 bits."""
        if self.chunks.has_palette:
            return indices(self.chunks)
        if native.model != "grey":
            return None
        step = 255 // ((1 << self.chunks.depth) - 1) if native.expanded else 1
        return np.asarray(native.samples[..., 0] // step)

    def metadata(self) -> list[tuple[str, bytes]]:
        return png.metadata(self.chunks)

    def credentials(self) -> list[tuple[str, bytes]]:
        return [entry for entry in self.metadata() if entry[0] == png.CREDENTIALS.decode()]

    def exif(self) -> bytes | None:
        """Of its own chunk, or as ImageMagick writes it: in hexadecimal, as a text."""
        return self.chunks.first(b"eXIf") or png.raw_exif(self.chunks)

    def xmp(self) -> bytes | None:
        found = next((bytes(p) for kind, p in self.chunks.items if png.is_xmp(kind, p)), None)
        if found is None:
            return None
        try:
            return png.international_text(found)
        except (ValueError, IndexError, zlib.error) as error:
            raise ItemError("image.truncated", f"{self.name}: damaged XMP chunk ({error}); export it again") from error

    def with_xmp(self, packet: bytes) -> bytes:
        """A new chunk lies behind the header."""
        fresh = png.chunk(b"iTXt", png.XMP_KEYWORD + bytes(5) + packet)
        start = end = png.HEADER_END
        at = len(png.SIGNATURE)
        for kind, payload in self.chunks.items:
            if png.is_xmp(kind, payload):
                start, end = at, at + 12 + len(payload)
                break
            at += 12 + len(payload)
        return b"".join([self.data[:start], fresh, self.data[end:]])

    @classmethod
    def create(cls, new: NewFile, name: str) -> bytes:
        """Grey with alpha in 16 bits becomes RGBA: no library here writes it."""
        samples = new.samples
        if samples.shape[2] == 2 and samples.dtype == np.uint16:
            samples = expand_grey(samples)
        coded, extra = encode_png(samples, LEVEL), []
        if new.icc:
            extra.append(png.chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(new.icc)))
        if new.exif:
            extra.append(png.chunk(b"eXIf", new.exif))
        if new.xmp:
            extra.append(png.chunk(b"iTXt", png.XMP_KEYWORD + bytes(5) + new.xmp))
        return b"".join([coded[: png.HEADER_END], *extra, coded[png.HEADER_END :]])


def encode_png(image: Samples | Mask, level: int | None = None) -> bytes:
    """A plain PNG, no ancillary chunks, of a mask (as 0 and 255), grey, grey with alpha (8 bits), RGB or RGBA; grey may
    lack its channel axis.

    Args:
        level: zlib's, 0 to 9. None: OpenCV's default, run lengths alone; any number also changes its strategy, so
            that the bytes differ even at the default's own level.

    Raises:
        ItemError: `image.unsupported` where no library here encodes it.
    """
    samples = with_channels(image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image)
    if samples.shape[2] == 2:
        out = BytesIO()
        Image.fromarray(samples).save(out, "PNG", **({} if level is None else {"compress_level": level}))
        return out.getvalue()
    options = [] if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    done, coded = cv2.imencode(".png", np.ascontiguousarray(rgb_order(samples)), options)
    if not done:
        raise ItemError("image.unsupported", f"OpenCV cannot write a PNG of {samples.shape} {samples.dtype}")
    return bytes(coded)


def _off_key(samples: Samples, key: npt.NDArray[np.uint16]) -> Samples:
    """Colour channels, with visible pixels that would hit the transparent colour moved by one level of blue or grey."""
    colour, alpha = samples[..., :-1].copy(), samples[..., -1]
    hit = (colour == key).all(axis=2) & (alpha > 0)
    colour[hit, -1] ^= 1
    return colour


def _samples_8(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        return with_channels(np.asarray(image.convert("L") if image.mode == "1" else image))


def _samples_16(parts: Chunks, name: str) -> npt.NDArray[np.uint16]:
    """Through OpenCV, which keeps 16 bits where Pillow reads RGB as 8."""
    _check_complete(parts, name)
    decoded = cv2.imdecode(np.frombuffer(image_only(parts), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("OpenCV finds no 16-bit samples")
    samples = rgb_order(decoded)
    # OpenCV repeats grey over three channels where there is alpha.
    return np.ascontiguousarray(samples[..., [0, -1]] if parts.channels == 2 else samples)


def _check_complete(parts: Chunks, name: str) -> None:
    """OpenCV fills missing rows silently; count the bytes first (interlaced rows only add to the count)."""
    expected = parts.height * (1 + parts.width * parts.channels * 2)
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
        return samples, parts.stores_alpha
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
