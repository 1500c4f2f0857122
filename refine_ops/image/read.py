"""Bytes to images: what may be refined is decoded, what may not is refused with its reason."""

from typing import Final

import numpy as np
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.native import Native, Samples
from refine_ops.image.formats.table import CODECS, SUPPORTED, sniff
from refine_ops.image.source import Source, upright
from refine_ops.records import Mask, U8Image

# Every decoder below reads the size from the header and checks it against the caller's limit before any library
# allocates; Pillow's own global limit would refuse images that the limit allows.
Image.MAX_IMAGE_PIXELS = None

_WHITE: Final = (255, 255, 255)


def decode(data: bytes, *, name: str, limits: ImageLimits, matte: tuple[int, int, int] = _WHITE) -> Source:
    """Decode one image file to native samples and to the upright sRGB view.

    Raises:
        ItemError: `image.empty`, `image.too_large`, `image.not_an_image`, `image.truncated`, `image.multi_frame`,
            `image.unsupported`, `image.bad_profile`.
    """
    file, native = _native(data, name, limits)
    if native.expanded:
        raise ItemError("image.unsupported", f"{name}: a PNG of 1, 2 or 4 grey bits; convert it to 8 bits")
    try:
        native.samples.flags.writeable = False
        rgb = upright(colour.render(native.samples, native, matte), native.orientation)
    except MemoryError as error:
        raise ItemError("image.too_large", f"{name}: not enough memory to decode it; lower max_pixels") from error
    except colour.BadProfile as error:
        raise ItemError("image.bad_profile", f"{name}: {error}; embed a valid profile or none") from error
    rgb.flags.writeable = False
    return Source(file, native, matte, rgb)


def decode_reference(data: bytes, *, name: str, limits: ImageLimits) -> U8Image:
    """A reference image as the model gets it: upright sRGB over white. Raises as `decode`."""
    return np.ascontiguousarray(decode(data, name=name, limits=limits).rgb)


def decode_mask(data: bytes, *, name: str, size: tuple[int, int], limits: ImageLimits) -> Mask:
    """A mask file as `bool (H, W)`, upright.

    True is white. A file whose largest value is 1 (a label mask) is taken literally: > 0; every other file is True
    from half of white on (>= 128 of 255). An alpha channel is ignored where colour varies; a mask drawn in alpha alone
    (constant colour) is read from alpha.

    Args:
        size: (width, height) that the upright mask must have; masks are never resized.

    Raises:
        ItemError: `mask.size`, `mask.empty`, and as `decode` with `mask.` for `image.`.
    """
    try:
        _, native = _native(data, name, limits)
    except ItemError as error:
        raise ItemError(error.reason.replace("image.", "mask."), str(error)) from error
    turned = upright(native.samples, native.orientation)
    height, width = turned.shape[:2]
    if (width, height) != size:
        raise ItemError(
            "mask.size", f"{name}: the mask is {width} x {height}, the image {size[0]} x {size[1]}; masks must match"
        )
    level = _mask_level(turned, native.alpha)
    top = int(level.max())
    mask: Mask = level > 0 if top == 1 else level > np.iinfo(level.dtype).max // 2
    if not mask.any():
        raise ItemError("mask.empty", f"{name}: nothing is marked (no pixel from 128 on, largest is {top}); mark one")
    return mask


def _mask_level(samples: Samples, alpha: bool) -> Samples:
    channels = samples[..., :-1] if alpha else samples
    if alpha and bool((channels == channels[0, 0]).all()):
        return samples[..., -1]
    return np.asarray(channels.max(axis=2))


def _native(data: bytes, name: str, limits: ImageLimits) -> tuple[ParsedFile, Native]:
    if not data:
        raise ItemError("image.empty", f"{name}: the file has 0 bytes; upload it again")
    if len(data) > limits.max_bytes:
        raise ItemError("image.too_large", f"{name}: {len(data):,} bytes is over max_bytes {limits.max_bytes:,}")
    kind = sniff(data)
    if kind is None:
        raise ItemError("image.not_an_image", f"{name}: not an image this project reads; supported: {SUPPORTED}")
    try:
        file = CODECS[kind].parse(data, name)
        return file, file.decode(limits)
    except MemoryError as error:
        raise ItemError("image.too_large", f"{name}: not enough memory to decode it; lower max_pixels") from error
