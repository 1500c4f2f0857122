"""Bytes to images: what may be refined is decoded, what may not is refused with its reason."""

from typing import Final

import numpy as np
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.native import Native, Samples
from refine_ops.image.formats.table import CODECS, SUPPORTED, foreign, sniff
from refine_ops.image.source import Source, upright
from refine_ops.records import U8Image

# Every decoder reads the size from the header and checks it against the caller's limit before any library allocates;
# Pillow's own global limit would refuse images that the limit allows.
Image.MAX_IMAGE_PIXELS = None

_WHITE: Final = (255, 255, 255)


def decode(data: bytes, *, name: str, limits: ImageLimits, matte: tuple[int, int, int] = _WHITE) -> Source:
    """Decode one image file to native samples and to the upright sRGB view.

    Raises:
        ItemError: `image.empty`, `image.too_large`, `image.not_an_image`, `image.truncated`, `image.multi_frame`,
            `image.unsupported`, `image.bad_profile`.
    """
    file = _codec(data, name, limits).parse(data, name)
    try:
        native = file.decode(limits)
        if native.expanded:
            raise ItemError("image.unsupported", f"{name}: a PNG of 1, 2 or 4 grey bits; convert it to 8 bits")
        native.samples.flags.writeable = False
        rgb = upright(colour.render(native.samples, native, matte), native.orientation)
    except MemoryError as error:
        raise ItemError("image.too_large", f"{name}: not enough memory to decode it; lower max_pixels") from error
    except colour.BadProfile as error:
        raise ItemError("image.bad_profile", f"{name}: {error}; embed a valid profile or none") from error
    rgb.flags.writeable = False
    return Source(file, native, matte, rgb)


def decode_rgb(data: bytes, *, name: str, limits: ImageLimits) -> U8Image:
    """The upright sRGB view alone, over white, contiguous. Raises as `decode`."""
    return np.ascontiguousarray(decode(data, name=name, limits=limits).rgb)


def look(data: bytes, name: str, limits: ImageLimits, *, several: bool) -> Native:
    """Samples of a file that is only looked at (a mask, a reference): layouts that cannot be edited are read as well.

    Args:
        several: Of several pictures in one file take the first; else they are refused.

    Raises:
        ItemError: as `decode`, but `image.unsupported` only where no library reads the file.
    """
    codec = _codec(data, name, limits)
    try:
        return codec.parse(data, name).decode(limits)
    except ItemError as error:
        if error.reason != "image.unsupported" and not (several and error.reason == "image.multi_frame"):
            raise
    except MemoryError as error:
        raise ItemError("image.too_large", f"{name}: not enough memory to decode it; lower max_pixels") from error
    return codec.look(data, name, limits)


def labels_of(data: bytes, name: str, limits: ImageLimits, native: Native) -> Samples | None:
    """Class numbers `(H, W)` of a label image, stored orientation, or None where its pixels are colours."""
    first = native.samples[..., 0]
    try:
        found = _codec(data, name, limits).parse(data, name).labels(native)
    except ItemError:  # a layout that is only looked at
        found = first if native.model == "grey" else None
    if found is None and native.model == "rgb" and all((native.samples[..., i] == first).all() for i in (1, 2)):
        return first
    return found


def _codec(data: bytes, name: str, limits: ImageLimits) -> type[ParsedFile]:
    if not data:
        raise ItemError("image.empty", f"{name}: the file has 0 bytes; upload it again")
    if len(data) > limits.max_bytes:
        raise ItemError("image.too_large", f"{name}: {len(data):,} bytes is over max_bytes {limits.max_bytes:,}")
    kind = sniff(data)
    if kind is None:
        other = foreign(data)
        said = f"a {other}; convert it to PNG or JPEG" if other else "not an image this project reads"
        raise ItemError("image.not_an_image", f"{name}: {said}; supported: {SUPPORTED}")
    return CODECS[kind]
