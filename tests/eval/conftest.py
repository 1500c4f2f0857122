"""Real photos, a batch made of them, and the ImageNet trunks."""

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from refine_ops.eval.metrics import CaseBatch
from tests.eval.trunk_weights import write_trunk

torch.set_num_threads(1)
BOX = (80, 32, 176, 128)


@pytest.fixture(scope="session")
def trunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunks")
    for name in ("alexnet", "vgg16"):
        write_trunk(name, folder)
    return str(folder)


@pytest.fixture
def photo():
    return cv2.resize(skimage.data.astronaut(), (256, 192), interpolation=cv2.INTER_AREA)


@pytest.fixture
def batch(photo):
    """Two inputs, blurred and speckled under an ellipse in the box; the outputs are the inputs."""
    mask = cv2.ellipse(np.zeros(photo.shape[:2], np.uint8), (128, 80), (38, 38), 0, 0, 360, 1, -1).astype(bool)
    allowed = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    noise = np.random.default_rng(0).integers(0, 256, photo.shape).astype(np.uint8)
    degraded = [cv2.GaussianBlur(photo, (0, 0), 3), cv2.addWeighted(photo, 0.5, noise, 0.5, 0)]
    inputs = np.stack([np.where(mask[..., None], d, photo) for d in degraded])
    return CaseBatch(
        inputs=inputs,
        target=np.stack([photo] * 2),
        outputs=inputs,
        mask=np.stack([mask] * 2),
        allowed=np.stack([allowed] * 2),
        box=BOX,
        instruction="Refine the face in the masked region",
        setting="free",
    )
