"""The pixels of a PNG: decoded and encoded by libraries, kept apart from everything else in the file."""

import zlib
from io import BytesIO
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.png import Chunks, chunks, image_only
from refine_ops.image.source import Model, Native, Samples, check_size

_MAX_PROFILE_BYTES: Final = 1 << 24
_LEVEL: Final = 4
"""zlib level: 5 % larger than level 6 in half the time."""
_CV_PARAMETERS: Final = [cv2.IMWRITE_PNG_COMPRESSION, _LEVEL]


def decode(data: bytes, name: str, limits: ImageLimits) -> Native:
    """Samples of every PNG kind; palettes and `tRNS` are expanded as the standard says, 16 bits stay 16.

    Raises:
        ItemError: as `chunks`, `image.too_large`, and `image.truncated` where the coded data is short or damaged.
    """
    parts = chunks(data, name)
    check_size(parts.width, parts.height, name, limits)
    try:
        samples = _samples_16(parts, name) if parts.depth == 16 else _samples_8(image_only(parts))
        samples, alpha = _with_transparency(samples, parts)
        icc = _icc(parts)
    except (OSError, SyntaxError, ValueError, zlib.error, cv2.error) as error:
        raise ItemError("image.truncated", f"{name}: damaged PNG ({error}); export it again") from error
    block = parts.first(b"eXIf")
    model: Model = "grey" if samples.shape[2] <= 2 else "rgb"
    expanded = parts.depth < 8 and not parts.has_palette
    return Native(samples, model, alpha, exif.orientation(block) if block else 1, icc, expanded)


def indices(parts: Chunks) -> npt.NDArray[np.uint8]:
    """Palette entries `uint8 (H, W)` of a palette PNG."""
    with Image.open(BytesIO(image_only(parts)), formats=["PNG"]) as image:
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


def _samples_8(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    return samples if samples.ndim == 3 else samples[:, :, None]


def _samples_16(parts: Chunks, name: str) -> npt.NDArray[np.uint16]:
    """Through OpenCV, which keeps 16 bits where Pillow reads RGB as 8."""
    _check_complete(parts, name)
    decoded = cv2.imdecode(np.frombuffer(image_only(parts), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("OpenCV finds no 16-bit samples")
    decoded = decoded if decoded.ndim == 3 else decoded[:, :, None]
    return np.ascontiguousarray(decoded[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[decoded.shape[2]]])


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


def _pillow_png(image: Image.Image, bits: int | None = None) -> bytes:
    out = BytesIO()
    image.save(out, "PNG", compress_level=_LEVEL, **({"bits": bits} if bits else {}))
    return out.getvalue()
