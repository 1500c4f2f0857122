"""Between a file's own colours and the sRGB the model works in, both ways."""

from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from refine_ops.errors import RefineError
from refine_ops.image.formats.native import F32, Model, Native, Samples
from refine_ops.records import F32Image, U8Image

_MODES: Final[dict[Model, str]] = {"grey": "L", "rgb": "RGB", "cmyk": "CMYK"}
_SPACES: Final[dict[Model, str]] = {"grey": "GRAY", "rgb": "RGB", "cmyk": "CMYK"}
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_PHASES: Final = 16
"""Dither phases averaged for 16-bit files: LittleCMS through Pillow is 8-bit, the average resolves 1/16 of a step."""


class BadProfile(RefineError):
    """An embedded ICC profile that is damaged or made for another colour model."""


class Profile:
    """Conversion between one colour model (with its ICC profile, if any) and sRGB.

    `identity` is True for RGB that is sRGB, or so near that no 8-bit colour of a 9^3 grid moves by more than 1.
    """

    def __init__(self, model: Model, icc: bytes | None) -> None:
        self.model = model
        self._forward: ImageCms.ImageCmsTransform | None = None
        if icc is not None:
            self._forward, self._backward = _transforms(model, icc)
        self.identity = model == "rgb" and (self._forward is None or self._is_near_identity())

    def to_srgb(self, samples: U8Image) -> U8Image:
        """Colour channels `uint8 (H, W, C)` to sRGB `uint8 (H, W, 3)`."""
        if self.identity:
            return samples
        if self._forward is not None:
            return _apply(self._forward, samples, _MODES[self.model])
        if self.model == "grey":
            return np.repeat(samples, 3, axis=2)
        clear = 255 - samples.astype(np.uint16)
        return ((clear[..., :3] * clear[..., 3:] + 127) // 255).astype(np.uint8)

    def from_srgb(self, rgb: F32Image, current: F32, bits: int) -> F32:
        """sRGB `(h, w, 3)` to the file's channels `(h, w, C)`, all in [0, 1], precise enough for `bits` per sample.

        Without a profile, CMYK keeps as much of the `current` black as still lets the colour be reached.
        """
        if self.identity:
            return rgb
        if self._forward is not None:
            phases = _PHASES if bits > 8 else 1
            total = np.zeros((*rgb.shape[:2], current.shape[2]), np.float32)
            for phase in range(phases):
                level = (rgb * 255 + (phase + 0.5) / phases).astype(np.uint8)
                total += _apply(self._backward, level, "RGB").reshape(total.shape)
            total /= 255 * phases
            return total
        if self.model == "grey":
            return np.asarray(rgb @ _LUMA, np.float32)[..., None]
        black = np.minimum(current[..., 3:], 1 - rgb.max(axis=2, keepdims=True))
        ink = 1 - rgb / np.maximum(1 - black, np.float32(1e-6))
        return np.concatenate([np.clip(ink, 0, 1), black], axis=2)

    def _is_near_identity(self) -> bool:
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        assert self._forward is not None
        moved = _apply(self._forward, grid, "RGB").astype(np.int16) - grid
        return bool(np.abs(moved).max() <= 1)


@lru_cache(maxsize=64)
def profile(model: Model, icc: bytes | None) -> Profile:
    """The conversion for a colour model and embedded profile; built once per profile.

    Raises:
        BadProfile: The profile is damaged or describes another colour model.
    """
    return Profile(model, icc)


def render(samples: Samples, native: Native, matte: tuple[int, int, int]) -> U8Image:
    """Samples laid out as `native`'s, as sRGB `uint8 (H, W, 3)` composited over `matte`.

    8-bit sRGB without alpha is returned as it is, uncopied.
    """
    shown, alpha = straight(samples, native)
    return shown if alpha is None else over(shown, alpha, matte)


def straight(samples: Samples, native: Native) -> tuple[U8Image, npt.NDArray[np.uint8] | None]:
    """Samples as sRGB `uint8 (H, W, 3)`, whatever their alpha, and that alpha as `uint8 (H, W, 1)` or None."""
    eight: U8Image = samples if samples.dtype == np.uint8 else to_8_bits(samples)
    convert = profile(native.model, native.icc).to_srgb
    return (convert(np.ascontiguousarray(eight[..., :-1])), eight[..., -1:]) if native.alpha else (convert(eight), None)


def over(shown: U8Image, alpha: npt.NDArray[np.uint8], matte: tuple[int, int, int]) -> U8Image:
    """`shown` composited over one colour."""
    wide = alpha.astype(np.uint16)
    return ((shown * wide + (255 - wide) * np.array(matte, np.uint16) + 127) // 255).astype(np.uint8)


def to_8_bits(samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """16-bit samples to the nearest of 256 levels (65535 / 255 = 257)."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _transforms(model: Model, icc: bytes) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform]:
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(icc))
        space = str(own.profile.xcolor_space).strip()
        srgb = ImageCms.createProfile("sRGB")
        mode = _MODES[model]
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        # NOCACHE: LittleCMS' one-pixel cache is shared state, and threads share these transforms.
        flags = ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION
        if space == _SPACES[model]:
            return (
                ImageCms.buildTransform(own, srgb, mode, "RGB", intent, flags),
                ImageCms.buildTransform(srgb, own, "RGB", mode, intent, flags),
            )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise BadProfile(f"the embedded ICC profile cannot be used ({error})") from error
    raise BadProfile(f"the embedded ICC profile is for {space}, the samples are {_SPACES[model]}")


def _apply(transform: ImageCms.ImageCmsTransform, samples: U8Image, mode: str) -> U8Image:
    height, width = samples.shape[:2]
    image = Image.frombuffer(mode, (width, height), np.ascontiguousarray(samples), "raw", mode, 0, 1)
    return np.asarray(transform.apply(image))
