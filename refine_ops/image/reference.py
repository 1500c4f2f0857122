"""References: pictures of things, only looked at, often on transparent ground."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.read import look
from refine_ops.image.source import upright
from refine_ops.records import Mask, U8Image

_GROUNDS: Final = ((255, 255, 255), (0, 0, 0), (128, 128, 128))
_OUTLINE_PX: Final = 2
_CONTRAST: Final = 32
_MAX_HIDDEN: Final = 0.25


def decode_reference(data: bytes, *, name: str, limits: ImageLimits) -> U8Image:
    """A reference image as the model gets it: `uint8 (H, W, 3)`, upright, sRGB, on a ground it can be seen on.

    Whatever a library reads will do (one bit, tiles, floats), and of several pictures the first. Transparency is
    filled with white; where more than a quarter of the outline would be lost on it (a white logo), with the one of
    black and mid-grey that loses less.

    Raises:
        ItemError: `reference.invisible` where everything is transparent; `reference.empty`, `reference.too_large`,
            `reference.not_an_image`, `reference.truncated`, `reference.unsupported`, `reference.bad_profile`.
    """
    try:
        return decode_visible(data, name=name, limits=limits)
    except ItemError as error:
        raise ItemError(error.reason.replace("image.", "reference."), str(error)) from error


def decode_cut_out(data: bytes, *, name: str, limits: ImageLimits) -> tuple[U8Image, Mask | None]:
    """As `decode_reference`, and where it shows anything, `bool (H, W)`; None where it has no transparency."""
    native = look(data, name, limits, several=True)
    pixels = decode_reference(data, name=name, limits=limits)
    _, alpha = colour.straight(native.samples, native)
    if alpha is None or alpha.min() > 127:
        return pixels, None
    return pixels, np.ascontiguousarray(upright(alpha, native.orientation)[..., 0] > 127)


def decode_visible(data: bytes, *, name: str, limits: ImageLimits) -> U8Image:
    """As `decode_reference`, for any picture that is only looked at; its reasons begin with `image.`."""
    native = look(data, name, limits, several=True)
    try:
        shown, alpha = colour.straight(native.samples, native)
    except colour.BadProfile as error:
        raise ItemError("image.bad_profile", f"{name}: {error}; embed a valid profile or none") from error
    if alpha is not None:
        if not alpha.any():
            raise ItemError("image.invisible", f"{name}: every pixel is transparent; give a picture that shows it")
        shown = colour.over(shown, alpha, _ground(shown, alpha))
    return np.ascontiguousarray(upright(shown, native.orientation))


def _ground(shown: U8Image, alpha: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """White; where the outline (visible pixels within 2 px of transparent ones) is lost on it, what shows it best."""
    visible = (alpha[..., 0] >= min(128, int(alpha.max()))).view(np.uint8)
    near = np.ones((2 * _OUTLINE_PX + 1,) * 2, np.uint8)
    outline = shown[(visible - cv2.erode(visible, near, borderValue=1)).view(np.bool_)]
    if not len(outline):
        return _GROUNDS[0]
    hidden = [float((np.abs(outline.astype(np.int16) - g).max(axis=1) < _CONTRAST).mean()) for g in _GROUNDS]
    return _GROUNDS[0] if hidden[0] <= _MAX_HIDDEN else _GROUNDS[int(np.argmin(hidden))]
