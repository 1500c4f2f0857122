"""Encode the edited image into the bytes to be published, in the file's own format unless told otherwise."""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.config import WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image import convert
from refine_ops.image.formats import exif, jpeg, jpeg_blocks, png, png_pixels, png_rows, tiff, webp
from refine_ops.image.paste import Canvas
from refine_ops.image.source import Format, Samples, Source, as_stored, upright
from refine_ops.records import Mask

_PALETTE_LIMIT: Final = 8.0
_THUMBNAIL_QUALITIES: Final = (85, 70, 50, 30)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Bytes ready to publish and what they may differ in.

    `allowed` is the allowed change, `bool (H, W)`, upright. `converted` says that the format changed: the pixels are
    then stored upright rather than in the source's stored orientation.
    """

    data: bytes
    format: Format
    allowed: Mask
    touched_mcus: int = 0
    converted: bool = False


def encode(source: Source, canvas: Canvas, settings: WriteSettings, *, confined: bool = False) -> Encoded:
    """The bytes to publish.

    Args:
        confined: The blend was confined to the region: chroma never bleeds, whatever `jpeg_bleed` says.

    Raises:
        ItemError: `jpeg.no_backend`, `jpeg.refused`, `webp.lossy`, `palette.too_coarse`, `tiff.refused`,
            `image.unsupported` (a conversion that would lose something).
    """
    target = settings.output_format
    if target == "png" and source.format != "png":
        return _converted(source, canvas, "png")
    if target == "webp-lossless" and source.format != "webp":
        return _converted(source, canvas, "webp")
    if source.format == "jpeg":
        try:
            return _jpeg(source, canvas, settings, "none" if confined else settings.jpeg_bleed)
        except ItemError as error:
            if settings.jpeg_fallback == "refuse" or not error.reason.startswith("jpeg."):
                raise
            return _converted(source, canvas, "png")
    if source.format == "png":
        return Encoded(_png(source, canvas, settings), "png", canvas.support)
    if source.format == "webp":
        return Encoded(_webp(source, canvas, settings), "webp", canvas.support)
    edited = tiff.encode(source.data, source.name, source.native.samples, canvas.samples)
    return Encoded(edited, "tiff", canvas.support)


def change_mask(canvas: Canvas) -> bytes:
    """A grey PNG in image coordinates: 0 where nothing was touched, 255 where the result replaced the source."""
    return png_pixels.encode(canvas.change[:, :, None])


def _converted(source: Source, canvas: Canvas, target: Format) -> Encoded:
    return Encoded(convert.encode(source, canvas.samples, target), target, canvas.support, converted=True)


def _jpeg(source: Source, canvas: Canvas, settings: WriteSettings, bleed: jpeg_blocks.Bleed) -> Encoded:
    native = source.native
    plan = jpeg.layout(source.data, source.name)
    touched = jpeg_blocks.touched_mcus(as_stored(canvas.support, native.orientation), plan)
    coded = jpeg_blocks.splice(source.data, plan, native.samples, canvas.samples, touched, bleed)
    fresh = _fresh_exif(jpeg.exif_block(plan), canvas, settings)
    allowed = upright(jpeg_blocks.reachable_px(touched, plan, bleed), native.orientation)
    data = jpeg.reassemble(source.data, plan, coded, fresh)
    return Encoded(data, "jpeg", allowed, touched_mcus=int(touched.sum()))


def _png(source: Source, canvas: Canvas, settings: WriteSettings) -> bytes:
    parts = png.chunks(source.data, source.name)
    if parts.has_palette:
        samples: Samples = _palette_entries(source, canvas, parts)[:, :, None]
    else:
        samples = canvas.samples if parts.colour_key is None else _off_key(canvas.samples, parts.colour_key)
    changed = np.any(as_stored(canvas.support, source.native.orientation), axis=1)
    data = png_rows.splice(parts, samples, changed)
    if data is None:
        whole = png_pixels.encode_palette(samples[..., 0], parts) if parts.has_palette else png_pixels.encode(samples)
        data = png.image_data(parts, whole, source.name)
    return png.reassemble(parts, data, _fresh_exif(parts.first(b"eXIf"), canvas, settings))


def _webp(source: Source, canvas: Canvas, settings: WriteSettings) -> bytes:
    parts = webp.riff(source.data, source.name)
    if not parts.lossless and settings.webp_lossy == "refuse":
        raise ItemError(
            "webp.lossy",
            f"{source.name}: a lossy WebP re-encoded lossily changes everywhere; set write.webp_lossy to 'lossless'",
        )
    return webp.reassemble(parts, webp.encode(canvas.samples), _fresh_exif(webp.exif_block(parts), canvas, settings))


def _palette_entries(source: Source, canvas: Canvas, parts: png.Chunks) -> npt.NDArray[np.uint8]:
    """Edited pixels become the nearest entry of the file's own palette with their alpha; the others keep theirs.

    Raises:
        ItemError: `palette.too_coarse` where the nearest entries are off by more than 8/255 on average.
    """
    entries, table = png_pixels.indices(parts), png_pixels.palette(parts).astype(np.int32)
    edited = (canvas.samples != source.native.samples).any(axis=2)
    if not edited.any():
        return entries
    wanted = canvas.samples[edited].astype(np.int32)
    if wanted.shape[1] == 3:
        wanted = np.concatenate([wanted, np.full((len(wanted), 1), 255, np.int32)], axis=1)
    colours, inverse = np.unique(wanted, axis=0, return_inverse=True)
    nearest = np.empty(len(colours), np.uint8)
    for start in range(0, len(colours), 4096):
        off = colours[start : start + 4096, None, :] - table[None]
        distance = (off[..., :3] ** 2).sum(axis=2) + (off[..., 3] != 0) * (1 << 20)
        nearest[start : start + 4096] = distance.argmin(axis=1)
    error = float(np.abs(table[nearest[inverse.ravel()]] - wanted)[:, :3].mean())
    if error > _PALETTE_LIMIT:
        raise ItemError(
            "palette.too_coarse",
            f"{source.name}: its palette of {len(table)} colours misses the result by {error:.1f}/255 on average "
            f"(limit {_PALETTE_LIMIT:.0f}); convert the file to RGB first",
        )
    entries[edited] = nearest[inverse.ravel()]
    return entries


def _off_key(samples: Samples, key: npt.NDArray[np.uint16]) -> Samples:
    """Colour channels, with visible pixels that would hit the transparent colour moved by one level of blue or grey."""
    colour, alpha = samples[..., :-1].copy(), samples[..., -1]
    hit = (colour == key).all(axis=2) & (alpha > 0)
    colour[hit, -1] ^= 1
    return colour


def _fresh_exif(block: bytes | None, canvas: Canvas, settings: WriteSettings) -> bytes | None:
    """The EXIF block with its thumbnail made anew, or dropped where told so or where no new one fits its place."""
    if block is None:
        return None
    old = exif.thumbnail(block)
    if settings.thumbnail == "refresh" and old is not None:
        for quality in _THUMBNAIL_QUALITIES:
            fresh = _thumbnail(old, canvas, quality)
            replaced = exif.with_thumbnail(block, fresh) if fresh else None
            if replaced is not None:
                return replaced
    return exif.without_thumbnail(block)


def _thumbnail(old: bytes, canvas: Canvas, quality: int) -> bytes | None:
    """The edited image in the old thumbnail's frame (letterbox bars stay), or None where that one is unreadable."""
    try:
        with Image.open(BytesIO(old), formats=["JPEG"]) as image:
            if max(image.size) > 1024:
                return None
            frame = image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    picture = Image.fromarray(np.ascontiguousarray(canvas.stored_rgb))
    picture.thumbnail(frame.size, Image.Resampling.BOX)
    frame.paste(picture, ((frame.width - picture.width) // 2, (frame.height - picture.height) // 2))
    out = BytesIO()
    frame.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()
