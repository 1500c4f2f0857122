"""A thumbnail (EXIF's, Photoshop's) would show the old defect: it is made anew in the old one's frame, or dropped."""

from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image

from refine_ops.image.formats import exif
from refine_ops.image.formats.edit import Edit
from refine_ops.image.formats.previews import photoshop
from refine_ops.records import U8Image

_QUALITIES: Final = (85, 70, 50, 30)
_MAX_SIDE_PX: Final = 1024


def fresh_exif(block: bytes | None, edit: Edit) -> bytes | None:
    """The EXIF block with its thumbnail made anew, or dropped where told so or where no new one fits its place."""
    if block is None:
        return None
    old = exif.thumbnail(block)
    if edit.settings.thumbnail == "refresh" and old is not None:
        for quality in _QUALITIES:
            fresh = _thumbnail(old, edit.shown, quality)
            replaced = exif.with_thumbnail(block, fresh) if fresh else None
            if replaced is not None:
                return replaced
    return exif.without_thumbnail(block)


def fresh_resources(resources: bytes, edit: Edit) -> bytes:
    """Photoshop's resources with their thumbnail made anew, or dropped, likewise."""
    refresh = edit.settings.thumbnail == "refresh"
    return photoshop.with_thumbnails(
        resources, lambda old: _thumbnail(old, edit.shown, _QUALITIES[0]) if refresh else None
    )


def _thumbnail(old: bytes, shown: U8Image, quality: int) -> bytes | None:
    """`shown` in the old thumbnail's frame (letterbox bars stay), or None where that one is unreadable."""
    try:
        with Image.open(BytesIO(old), formats=["JPEG"]) as image:
            if max(image.size) > _MAX_SIDE_PX:
                return None
            frame = image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail(frame.size, Image.Resampling.BOX)
    frame.paste(picture, ((frame.width - picture.width) // 2, (frame.height - picture.height) // 2))
    out = BytesIO()
    frame.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()
