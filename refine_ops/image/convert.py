"""Another format on request: upright, with the profile, EXIF and XMP carried over, and never a bit less."""

import struct
import zlib

import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image.formats import exif, jpeg, png, png_pixels, webp
from refine_ops.image.source import Format, Samples, Source, upright

_XMP_APP1 = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEYWORD = b"XML:com.adobe.xmp"


def encode(source: Source, samples: Samples, target: Format) -> bytes:
    """`samples` (laid out as the source's) as a PNG or lossless WebP, upright, orientation tag set to 1.

    Raises:
        ItemError: `image.unsupported` where the target cannot hold the samples exactly (CMYK; 16 bits or a grey
            profile in WebP; sides over 16,383 px in WebP).
    """
    native = source.native
    if native.model == "cmyk":
        raise ItemError("image.unsupported", f"{source.name}: {target} holds no CMYK; use output_format: source")
    turned = np.ascontiguousarray(upright(samples, native.orientation))
    block, xmp = _exif_and_xmp(source)
    block = exif.with_orientation_1(exif.without_thumbnail(block)) if block else None
    if target == "png":
        return _as_png(turned, native.icc, block, xmp)
    if native.bits == 16 or max(turned.shape[:2]) > webp.MAX_SIDE_PX or (native.model == "grey" and native.icc):
        raise ItemError(
            "image.unsupported",
            f"{source.name}: lossless WebP holds 8-bit RGB up to {webp.MAX_SIDE_PX} px a side; use output_format: png",
        )
    extra = {b"ICCP": native.icc, b"EXIF": block, b"XMP ": xmp}
    rgb = expand_grey(turned) if native.model == "grey" else turned
    size = (turned.shape[1], turned.shape[0])
    return webp.container(webp.encode(rgb), size, native.alpha, {k: v for k, v in extra.items() if v})


def expand_grey(samples: Samples) -> Samples:
    """Grey, with or without alpha, as RGB(A)."""
    return samples[..., [0, 0, 0, 1][: samples.shape[2] + 2]]


def _as_png(samples: Samples, icc: bytes | None, block: bytes | None, xmp: bytes | None) -> bytes:
    if samples.shape[2] == 2 and samples.dtype == np.uint16:
        samples = expand_grey(samples)
    coded = png_pixels.encode(samples)
    header_end = len(png.SIGNATURE) + 25
    extra = []
    if icc:
        extra.append(png.chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if block:
        extra.append(png.chunk(b"eXIf", block))
    if xmp:
        extra.append(png.chunk(b"iTXt", _XMP_KEYWORD + struct.pack(">5x") + xmp))
    return b"".join([coded[:header_end], *extra, coded[header_end:]])


def _exif_and_xmp(source: Source) -> tuple[bytes | None, bytes | None]:
    if source.format == "jpeg":
        plan = jpeg.layout(source.data, source.name)
        packets = [s.payload for s in plan.segments if s.marker == 0xE1 and s.payload.startswith(_XMP_APP1)]
        return jpeg.exif_block(plan), packets[0][len(_XMP_APP1) :] if packets else None
    if source.format == "png":
        parts = png.chunks(source.data, source.name)
        text = next((p for k, p in parts.items if k == b"iTXt" and p.startswith(_XMP_KEYWORD + b"\0\0")), None)
        return parts.first(b"eXIf"), text.split(b"\0", 5)[5] if text else None
    if source.format == "webp":
        chunks = webp.riff(source.data, source.name)
        return webp.exif_block(chunks), chunks.first(b"XMP ")
    return None, None
