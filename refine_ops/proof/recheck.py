"""Strict: the published bytes, decoded again, against the decoded source. Nothing the worker said is taken for it."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from refine_ops.image.source import Source, as_stored, upright
from refine_ops.records import Box, Mask
from refine_ops.report.cases import Rules

_EXIF_ORIENTATION = 0x0112
_EXIF_THUMBNAIL = frozenset({0x0201, 0x0202})


@dataclass(frozen=True, slots=True)
class Strict:
    """`changed_px` counts pixels that differ outside the allowed change in any channel, `max_diff` is in levels of the
    file's own depth, `where` bounds them in upright pixels, `metadata_lost` names what was not kept."""

    changed_px: int
    max_diff: int
    where: Box | None
    metadata_lost: tuple[str, ...]


def allowed_change(source: Source, support: Mask, rules: Rules) -> Mask:
    """`bool (H, W)`, upright: the support; in a JPEG written as JPEG, all that decoders may show differently once the
    MCUs it touches are edited."""
    if not rules.same_format:
        return support
    orientation = source.native.orientation
    stored = source.file.reachable(as_stored(support, orientation), rules.jpeg_bleed)
    return np.ascontiguousarray(upright(stored, orientation))


def check_strict(source: Source, output: Source, allowed: Mask, rules: Rules) -> Strict:
    """Compare all stored samples (alpha and 16 bits too); images of another size or kind differ everywhere."""
    before = upright(source.native.samples, source.native.orientation)
    after = upright(output.native.samples, output.native.orientation)
    lost = _lost(source, output, rules)
    if before.shape != after.shape or before.dtype != after.dtype:
        before, after = source.rgb, output.rgb
    if before.shape != after.shape:
        outside = ~allowed
        return Strict(int(outside.sum()), 255, _bounds(outside), lost)
    changed = _differs(before, after) & ~allowed
    count = int(cv2.countNonZero(changed.view(np.uint8)))
    if not count:
        return Strict(0, 0, None, lost)
    distance = np.abs(before[changed].astype(np.int32) - after[changed].astype(np.int32))
    return Strict(count, int(distance.max()), _bounds(changed), lost)


def _differs(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> Mask:
    """`bool (H, W)`: any channel differs; channel by channel, which is three times faster than a reduction."""
    changed: Mask = before[..., 0] != after[..., 0]
    for channel in range(1, before.shape[2]):
        changed = changed | (before[..., channel] != after[..., channel])
    return np.ascontiguousarray(changed)


def _bounds(mask: Mask) -> Box | None:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def _lost(source: Source, output: Source, rules: Rules) -> tuple[str, ...]:
    """What the output does not keep, judged by Pillow's reading of both files, not by the code that wrote them."""
    lost = []
    if rules.same_format and source.format != output.format:
        lost.append(f"format ({source.format} became {output.format})")
    if source.size != output.size:
        lost.append(f"size ({source.width} x {source.height} became {output.width} x {output.height})")
    if source.native.bits != output.native.bits:
        lost.append(f"bit depth ({source.native.bits} became {output.native.bits})")
    if source.native.model != output.native.model:
        lost.append(f"colour model ({source.native.model} became {output.native.model})")
    if source.native.alpha != output.native.alpha:
        lost.append("alpha channel")
    if rules.same_format and source.native.orientation != output.native.orientation:
        lost.append("EXIF orientation")
    before, after = _metadata(source.data), _metadata(output.data)
    return (
        *lost,
        *(f"{name}{'' if name in after else ' (dropped)'}" for name in before if before[name] != after.get(name)),
    )


def _metadata(data: bytes) -> dict[str, object]:
    """ICC, XMP, EXIF tags (orientation and thumbnail aside), comment, density and a PNG's other chunks, by name."""
    try:
        with Image.open(BytesIO(data)) as image:
            info, chunks = image.info, dict(_png_chunks(data)) if image.format == "PNG" else {}
            exif = chunks.pop("eXIf", None) or (info.get("exif") if image.format != "TIFF" else None)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return {}
    found: dict[str, object] = {
        "ICC profile": info.get("icc_profile"),
        "XMP": info.get("xmp") or info.get("XML:com.adobe.xmp"),
        "comment": info.get("comment"),
        "density": info.get("dpi") or info.get("jfif_density"),
        "EXIF": _exif_tags(exif) if exif else None,
    }
    return {name: value for name, value in found.items() if value} | {f"{name} chunk": v for name, v in chunks.items()}


def _png_chunks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Ancillary chunks but the profile, which may be compressed anew; Pillow would decode all pixels to find those at
    the end."""
    at, found = 8, dict[str, bytes]()
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind[0] & 0x20 and kind != b"iCCP":
            name = kind.decode("latin-1")
            found[name] = found.get(name, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    yield from found.items()


def _exif_tags(block: bytes) -> dict[str, str]:
    exif = Image.Exif()
    try:
        exif.load(block)
        blocks = {"": dict(exif), "exif": dict(exif.get_ifd(0x8769)), "gps": dict(exif.get_ifd(0x8825))}
    except (OSError, SyntaxError, ValueError, KeyError, struct.error):
        return {"unreadable": hashlib.sha256(block).hexdigest()}
    skip = _EXIF_THUMBNAIL | {_EXIF_ORIENTATION, 0x8769, 0x8825}
    return {f"{b}.{tag}": repr(value) for b, tags in blocks.items() for tag, value in tags.items() if tag not in skip}
