"""Keep what the model left alone: detail that only its autoencoder, or a crop larger than its budget, has lost.

With `back` the crop's own round trip (view, autoencoder, and back to native resolution), the patch becomes
`patch + k * (source - back)`. k falls from 1 to 0 as the patch departs from `back`: where the model changed nothing the
source comes back, at any zoom, and where it changed much nothing of the old is mixed in.
"""

from typing import Final

import cv2
import numpy as np

from refine_ops.image.formats.native import F32
from refine_ops.records import FocusCrop, U8Image

_BLUR_PX: Final = 1.5
"""Sigma in model pixels over which the departure is averaged: its noise is the autoencoder's, not the model's will."""


def keep_detail(native: F32, back: F32, truth: U8Image, crop: FocusCrop, levels: float) -> F32:
    """The patch on C with the source's detail where it departs from the round trip by less than `levels`/255.

    Args:
        native, back: Patch and round trip on C, `float32 (crop h, crop w, 3)`, both with their drift undone.
        truth: The source on C, `uint8 (crop h, crop w, 3)`.
        levels: Where k reaches 0; above 0.
    """
    left, _, right, _ = crop.pad
    zoom = crop.size[0] / (left + crop.crop[2] - crop.crop[0] + right)
    departure = np.abs(native - back).max(axis=2)
    # A model pixel covers 1/zoom native ones; below one native pixel there is nothing to average over.
    departure = cv2.GaussianBlur(departure, (0, 0), max(1.0, _BLUR_PX / zoom), borderType=cv2.BORDER_REPLICATE)
    k = np.clip(1 - departure * np.float32(255 / levels), 0, 1)[:, :, None]
    lost = truth.astype(np.float32) / np.float32(255) - back
    kept: F32 = np.clip(native + k * lost, 0, 1)
    return kept
