"""A batch made of a real photo, for metrics."""

import cv2
import numpy as np
import skimage.data

from refine_ops.eval.metrics.metric import CaseBatch
from refine_ops.records import U8Image

BOX = (80, 32, 176, 128)


def photo() -> U8Image:
    """The astronaut (NASA, public domain), `uint8 (192, 256, 3)`."""
    return np.asarray(cv2.resize(skimage.data.astronaut(), (256, 192), interpolation=cv2.INTER_AREA), np.uint8)


def make_batch() -> CaseBatch:
    """Two inputs, blurred and speckled under an ellipse in the box; the outputs are the inputs."""
    clean = photo()
    mask = cv2.ellipse(np.zeros(clean.shape[:2], np.uint8), (128, 80), (38, 38), 0, 0, 360, 1, -1).astype(bool)
    allowed = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    noise = np.random.default_rng(0).integers(0, 256, clean.shape).astype(np.uint8)
    degraded = [cv2.GaussianBlur(clean, (0, 0), 3), cv2.addWeighted(clean, 0.5, noise, 0.5, 0)]
    inputs = np.stack([np.where(mask[..., None], d, clean) for d in degraded])
    return CaseBatch(
        inputs=inputs,
        target=np.stack([clean] * 2),
        outputs=inputs,
        mask=np.stack([mask] * 2),
        allowed=np.stack([allowed] * 2),
        box=BOX,
        instruction="Refine the face in the masked region",
        setting="free",
    )
