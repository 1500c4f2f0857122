"""How different two pictures are: PSNR, SSIM and CIEDE2000, each defined once for all that measures."""

from typing import Any, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab

from refine_ops.image.focus import crop_of
from refine_ops.records import Mask, U8Image

PSNR_CAP_DB: Final = 100.0
"""PSNR of equal pixels; the least difference there is, one step in one channel, gives at most 93 dB up to 100^2."""
WINDOW_PX: Final = 11
RADIUS_PX: Final = WINDOW_PX // 2
_SAMPLE: Final = 16_384
"""CIEDE2000 is taken on at most this many pixels, evenly spread: 2 ms instead of 150 ms per megapixel."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

F64 = npt.NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)
Windowed = TypeVar("Windowed", np.float32, np.float64, np.bool_)


def mean_squared_error(first: U8Image, second: U8Image, where: Mask | None = None) -> float:
    """Of two `uint8 (H, W, 3)` images, over the pixels in `where` or all, in units of [0, 1]."""
    a, b = (first, second) if where is None else (first[where], second[where])
    return float(((a.astype(np.float64) - b) ** 2).mean() / 255**2)


def psnr(first: U8Image, second: U8Image, where: Mask | None = None) -> float:
    """dB of `mean_squared_error`; `PSNR_CAP_DB` where nothing differs."""
    error = mean_squared_error(first, second, where)
    return PSNR_CAP_DB if error == 0 else min(-10 * float(np.log10(error)), PSNR_CAP_DB)


def ssim_map(first: npt.NDArray[Real], second: npt.NDArray[Real]) -> npt.NDArray[Real]:
    """SSIM of Wang et al. (2004) of the window around every pixel: `(H, W)` or `(H, W, C)` in 0..255 to `(H, W)`.

    Gaussian window of 11 taps and sigma 1.5, population covariance, K1 0.01, K2 0.03, mean over channels; scikit-image
    gives the same with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`, while its
    defaults, and those of other libraries, differ by more than methods do. Exactly 1 where the two windows are equal.
    Within `RADIUS_PX` of the border windows are completed by reflection; float32 is off by up to 1e-3, float64 by 1e-9.
    """
    mean_1, mean_2 = _blurred(first), _blurred(second)
    var_1, var_2 = _blurred(first * first) - mean_1 * mean_1, _blurred(second * second) - mean_2 * mean_2
    covariance = _blurred(first * second) - mean_1 * mean_2
    ratio: Any = ((2 * mean_1 * mean_2 + _C1) * (2 * covariance + _C2)) / (
        (mean_1 * mean_1 + mean_2 * mean_2 + _C1) * (var_1 + var_2 + _C2)
    )
    return ratio if ratio.ndim == 2 else np.asarray(ratio.mean(2), first.dtype)


def ssim_of_change(first: U8Image, second: U8Image) -> F64:
    """`ssim_map` of the windows inside the image, `(H - 10, W - 10)`, where most of two `uint8 (H, W, 3)` images is
    equal: computed around the changes alone. Needs H, W >= 11."""
    height, width = first.shape[:2]
    similarity = np.ones((height, width))
    changed = (first != second).any(2)
    if changed.any():
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        reach = 2 * RADIUS_PX  # a window that sees a change lies within one radius of it and reaches one further
        x0, y0 = max(0, int(columns[0]) - reach), max(0, int(rows[0]) - reach)
        x1, y1 = min(width, int(columns[-1]) + reach + 1), min(height, int(rows[-1]) + reach + 1)
        part = (x0, y0, x1, y1)
        found = ssim_map(*(crop_of(image, part).astype(np.float64) for image in (first, second)))
        crop_of(similarity, part)[RADIUS_PX : y1 - y0 - RADIUS_PX, RADIUS_PX : x1 - x0 - RADIUS_PX] = inner(found)
    return inner(similarity)


def inner(windows: npt.NDArray[Windowed]) -> npt.NDArray[Windowed]:
    """Of a map over windows `(H, W)` those that lie in the image."""
    return windows[RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX]


def whole_windows(inside: Mask) -> Mask:
    """Which windows of `ssim_map` lie wholly in `inside (H, W)`; what is past the image's border does not count."""
    window = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    return np.asarray(cv2.erode(inside.astype(np.uint8), window, borderType=cv2.BORDER_REPLICATE), bool)


def de00(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> F64:
    """CIEDE2000 of two arrays of sRGB colours `(..., 3)`, `uint8` or float in [0, 1]."""
    return np.asarray(deltaE_ciede2000(rgb2lab(first), rgb2lab(second)), np.float64)


def sampled_de00(first: U8Image, second: U8Image, where: Mask) -> F64:
    """CIEDE2000 `(K,)` of two images' pixels in `where`, on an evenly spread sample of at most 16,384 of them."""
    places = np.flatnonzero(where)
    at = np.unravel_index(places[:: max(1, -(-len(places) // _SAMPLE))], where.shape)
    return de00(first[at], second[at])


def _blurred(image: npt.NDArray[Real]) -> npt.NDArray[Real]:
    blurred: npt.NDArray[Real] = cv2.GaussianBlur(image, (WINDOW_PX, WINDOW_PX), 1.5, borderType=cv2.BORDER_REFLECT)
    return blurred
