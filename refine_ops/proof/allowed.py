"""The allowed change of an input: where a strict method may write, whatever method it is.

Computed here from the mask and the file's own structure, independently of the code that pastes: the mask grown by the
blend's reach; in a JPEG, every MCU that touches this and, where chroma is subsampled, the pixel beside those.
"""

import io

import cv2
import numpy as np
from PIL import Image

from refine_ops.config import PasteSettings
from refine_ops.records import Mask


def allowed_change(mask: Mask, data: bytes, paste: PasteSettings | None = None) -> Mask:
    """`bool (H, W)` for an input file's bytes `data`; the paper's paste settings unless told otherwise."""
    grown = _grown(mask, 2 * (paste or PasteSettings()).reach_px + 1)
    if data[:3] != b"\xff\xd8\xff":
        return grown
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        layers = [(h, v) for _, h, v, _ in getattr(image, "layer")]  # noqa: B009 - not in the class's annotations
    across, down = (max(sides) for sides in zip(*layers, strict=True))
    blocks = _whole_blocks(grown, 8 * across, 8 * down)
    subsampled = any((h, v) != (across, down) for h, v in layers)
    return _grown(blocks, 3) if subsampled else blocks


def _grown(mask: Mask, side_px: int) -> Mask:
    kernel = np.ones((side_px, side_px), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), bool)


def _whole_blocks(mask: Mask, width: int, height: int) -> Mask:
    """`mask` grown to whole blocks of `width` x `height`, counted from the top left."""
    rows, columns = mask.shape
    padded = np.zeros((-(-rows // height) * height, -(-columns // width) * width), bool)
    padded[:rows, :columns] = mask
    touched = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width).any((1, 3))
    return np.asarray(touched.repeat(height, 0).repeat(width, 1)[:rows, :columns], bool)
