"""New image files, made of plain pixels: no source's metadata or structure is carried over (`write` does that)."""

import cv2
import numpy as np

from refine_ops.errors import JobError
from refine_ops.records import Mask, U8Image


def encode_png(image: U8Image | Mask, level: int | None = None) -> bytes:
    """A PNG of RGB `uint8 (H, W, 3)`, of grey `uint8 (H, W)`, or of a mask as grey 0 and 255.

    Args:
        level: zlib's, 0 to 9. None: OpenCV's default, run lengths alone; any number also changes its strategy, so
            that the bytes differ even at the default's own level.

    Raises:
        JobError: OpenCV cannot encode it.
    """
    pixels = image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image
    if pixels.ndim == 3:
        pixels = pixels[:, :, ::-1]
    options = [] if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    written, data = cv2.imencode(".png", pixels, options)
    if not written:
        raise JobError(f"OpenCV cannot encode an image of shape {image.shape} as PNG")
    return bytes(data)
