"""Image sizes and token counts: whole numbers only, no pixels."""

import math
from typing import Final

from refine_ops.errors import ItemError

TOKEN_LATENTS: Final = 2
"""One transformer token covers 2 x 2 latents (`patch_size`)."""
LARGEST_RATIO: Final = 30
"""Longer side to shorter one, at most; Qwen2.5-VL itself refuses 200."""


def fit_size(pixels: int, ratio: float, grid_px: int) -> tuple[int, int]:
    """`(width, height)` of about `pixels` px with width / height about `ratio`, both multiples of `grid_px`.

    The same rounding as the pipeline's `calculate_dimensions`, except that a side never becomes 0.
    """
    width = math.sqrt(pixels * ratio)
    height = width / ratio
    return max(grid_px, round(width / grid_px) * grid_px), max(grid_px, round(height / grid_px) * grid_px)


def check_crop(size: tuple[int, int], grid_px: int) -> None:
    """Raise ItemError unless both sides of `(width, height)` are positive multiples of the model's grid."""
    check_ratio("crop", size)
    if min(size) < grid_px or size[0] % grid_px or size[1] % grid_px:
        raise ItemError(
            "model.size", f"the model takes sizes in multiples of {grid_px} px, this crop is {size[0]}x{size[1]}"
        )


def check_ratio(name: str, size: tuple[int, int]) -> None:
    """Raise ItemError for an image `(width, height)` too thin for the model: nothing like it was trained on."""
    if max(size) > LARGEST_RATIO * min(size):
        raise ItemError(
            "model.ratio",
            f"the {name} is {size[0]}x{size[1]}; the model takes ratios up to {LARGEST_RATIO}:1, crop or pad it",
        )


def token_grid(size: tuple[int, int], latent_px: int) -> tuple[int, int]:
    """`(rows, columns)` of tokens of an image of `(width, height)` px, at `latent_px` px per latent."""
    token_px = latent_px * TOKEN_LATENTS
    return size[1] // token_px, size[0] // token_px
