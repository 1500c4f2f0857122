"""What a file holds beside its pixels, and what of it another file kept: by Pillow's reading, not by the writer's."""

import hashlib
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from PIL import Image, UnidentifiedImageError

from refine_ops.proof.mark import only_marked
from refine_ops.proof.stale import without_blanked

_ORIENTATION: Final = 0x0112
_THUMBNAIL: Final = frozenset({0x0201, 0x0202})
_CREDENTIALS: Final = b"caBX"
_XMP: Final = b"XML:com.adobe.xmp\0"
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825


def not_kept(source: bytes, written: bytes) -> tuple[str, ...]:
    """What of the source's metadata `written` lacks or has otherwise, by name; XMP may be marked, and what no edit may
    leave in it blank."""
    before, after = _metadata(source), _metadata(written)
    lost = [name for name in before if before[name] != after.get(name)]
    xmp, new_xmp = before.get("XMP"), after.get("XMP")
    if "XMP" in lost and isinstance(xmp, bytes) and isinstance(new_xmp, bytes):
        xmp = without_blanked(xmp, new_xmp)
        if xmp == new_xmp or only_marked(xmp, new_xmp):
            lost.remove("XMP")
    return tuple(f"{name}{'' if name in after else ' (dropped)'}" for name in lost)


def _metadata(data: bytes) -> dict[str, object]:
    """ICC, XMP, EXIF tags (orientation and thumbnails aside), comment, density and a PNG's other chunks, by name."""
    try:
        with Image.open(BytesIO(data)) as image:
            info, chunks = image.info, dict(_png_chunks(data)) if image.format == "PNG" else {}
            exif = chunks.pop("eXIf", None) or (info.get("exif") if image.format != "TIFF" else None)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return {}
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    found: dict[str, object] = {
        "ICC profile": info.get("icc_profile"),
        "XMP": xmp.encode() if isinstance(xmp, str) else xmp,
        "comment": info.get("comment"),
        "density": info.get("dpi") or info.get("jfif_density"),
        "EXIF": _exif_tags(exif) if exif else None,
    }
    return {name: value for name, value in found.items() if value} | {f"{name} chunk": v for name, v in chunks.items()}


def _png_chunks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Ancillary chunks but the profile, which may be compressed anew, Content Credentials, which sign other pixels, and
    XMP, which is compared by itself;
    Pillow would decode all pixels to find those at the end."""
    at, found = 8, dict[str, bytes]()
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind[0] & 0x20 and kind not in (b"iCCP", _CREDENTIALS) and not data.startswith(_XMP, at + 8):
            name = kind.decode("latin-1")
            found[name] = found.get(name, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    yield from found.items()


def _exif_tags(block: bytes) -> dict[str, str]:
    exif = Image.Exif()
    try:
        exif.load(block)
        blocks = {"": dict(exif), "exif": dict(exif.get_ifd(_EXIF_IFD)), "gps": dict(exif.get_ifd(_GPS_IFD))}
    except (OSError, SyntaxError, ValueError, KeyError, struct.error):
        return {"unreadable": hashlib.sha256(block).hexdigest()}
    skip = _THUMBNAIL | {_ORIENTATION, _EXIF_IFD, _GPS_IFD}
    return {f"{b}.{tag}": repr(value) for b, tags in blocks.items() for tag, value in tags.items() if tag not in skip}
