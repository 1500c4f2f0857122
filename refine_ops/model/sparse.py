"""Sparse targets: denoise only the tokens that will be pasted back.

What lies outside the blend's support is known -- it is the crop itself, given to the model as condition image -- so its
noisy tokens need no work. Chosen tokens keep their positions in the full grid; before decoding, the other latents are
those of the encoded crop.
"""

import math
from typing import Final

import cv2
import numpy as np
import torch

from refine_ops.records import Mask

LEVELS: Final = 16
"""Token counts are rounded up to sixteenths of the grid, so that crops of like size and support share a batch.

The free places go to the tokens next nearest to the support: real neighbours instead of padding, and no mask in the
attention. On average 1/32 of the grid is denoised in excess.
"""


def choose_tokens(support: Mask, grid: tuple[int, int], ring: int) -> torch.Tensor:
    """Choose the tokens to denoise: those that touch the support, `ring` tokens around them, then up to the next level.

    Args:
        support: `bool (h, w)`, the blend's support in model pixels.
        grid: `(rows, columns)` of tokens; h and w are multiples of it.
        ring: Chebyshev distance in tokens that is denoised around the support.

    Returns:
        Ascending `int64 (K,)` indices into the raster of the grid, K in (0, rows * columns].
    """
    rows, columns = grid
    touched = support.reshape(rows, support.shape[0] // rows, columns, support.shape[1] // columns).any(axis=(1, 3))
    distance = _token_distance(np.asarray(touched))
    total = rows * columns
    wanted = int((distance <= ring).sum())
    count = min(total, math.ceil(wanted * LEVELS / total) * total // LEVELS) if wanted else 0
    count = max(count, wanted, 1)
    nearest = np.argsort(distance.reshape(-1), kind="stable")[:count]
    return torch.from_numpy(np.sort(nearest).astype(np.int64))


def generated_mask(index: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Mask:
    """`bool (h, w)`: True on the pixels of the chosen tokens; `size` is `(width, height)` in model pixels."""
    tokens = np.zeros(grid[0] * grid[1], dtype=bool)
    tokens[index.numpy()] = True
    tall = np.repeat(tokens.reshape(grid), size[1] // grid[0], axis=0)
    return np.repeat(tall, size[0] // grid[1], axis=1)


def _token_distance(touched: Mask) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Chebyshev distance of every token to the nearest touched one (0 there; all 0 if none is touched)."""
    if not touched.any():
        return np.zeros(touched.shape, np.float32)
    # The chessboard metric of OpenCV's 3x3 distance transform is exact for Chebyshev distances.
    distance: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = cv2.distanceTransform(
        (~touched).astype(np.uint8), cv2.DIST_C, 3
    )
    return distance
