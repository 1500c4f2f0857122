"""A warped reference in the photo's own tone and sharpness, as both pictures show them where the photo is known."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.image.formats.native import F32
from refine_ops.image.registration.agree import Windows
from refine_ops.image.registration.frames import Homography, centre_of, resized
from refine_ops.records import Mask, U8Image

_TELLING: Final = 0.05
_ALIKE: Final = 0.75
_USUAL_PX: Final = 0.5
_MOST_PX: Final = 2.5
_SIDE_PX: Final = 128
"""The mask's longer side where the tone is fitted: tone varies slowly."""
_BLUR_PX: Final = 3.0
"""Both pictures' blur while they are compared: a damaged region's low frequencies are its tone."""
_REACH: Final = 0.3
"""One sigma of the local fit, as a share of the mask's longer side."""
_DECAY: Final = 0.9
_INSIDE: Final = 0.5
_CAUCHY: Final = 2.4
_LEAST_KNOWN_PX: Final = 16
_LEAST_LEVELS: Final = 4.0
_RIDGE: Final = 100.0
"""Pull of the local gain to the global one, as a variance in squared levels of 255."""
_PRIOR: Final = 0.05
"""What the global fit counts beside a fully known neighbourhood."""


def match_sharpness(warped: U8Image, around: Windows, zoom: float) -> U8Image:
    """Blurred to what the photo resolves around the region, `uint8 (h, w, 3)`; never sharpened.

    Args:
        around: The windows around the mask; where they show too little, a printed thing's usual 0.5 px is taken.
        zoom: The full view's pixels per pixel of the one that `around` was measured on.
    """
    told = around.telling >= _TELLING and around.mean >= _ALIKE
    blur = min(around.blur_px if told else _USUAL_PX, _MOST_PX) * zoom
    return np.asarray(cv2.GaussianBlur(warped, (0, 0), blur), np.uint8) if blur >= 0.3 else warped


@dataclass(frozen=True, slots=True, eq=False)
class Tone:
    """Per channel a gain and an offset that vary smoothly over a view, `(h, w, 3)` each, on a smaller grid.

    `to_grid` maps the view's pixels to the grid's.
    """

    gain: F32
    offset: F32
    to_grid: Homography

    def given_to(self, warped: U8Image, view: U8Image, covered: Mask, to_own: Homography | None = None) -> U8Image:
        """A warped reference with this tone, `uint8 (h, w, 3)`; the view itself where it does not cover.

        Args:
            to_own: From `view` to the view that the tone was fitted on, where it is another.
        """
        to_grid = self.to_grid if to_own is None else self.to_grid @ to_own
        size = (view.shape[1], view.shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        gain, offset = (
            cv2.warpAffine(field, to_grid[:2], size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for field in (self.gain, self.offset)
        )
        toned = np.rint(np.clip(warped * gain + offset, 0, 255)).astype(np.uint8)
        return np.where(covered[..., None], toned, view)


def fit_tone(view: U8Image, mask: Mask, warped: U8Image, covered: Mask) -> Tone:
    """The tone that gives the warped reference the view's light.

    Fitted to both pictures' low frequencies: outside the mask fully, inside it half, and wherever the two disagree
    (erased, painted over, another background) hardly at all.
    """
    middle, half = centre_of(mask)
    factor = min(1.0, _SIDE_PX / (2 * half))
    seen, to_grid = resized(view.astype(np.float32), factor)
    model, _ = resized(warped.astype(np.float32), factor)
    size = (seen.shape[1], seen.shape[0])
    there, inside = (
        cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA) for part in (covered, mask)
    )
    xs, ys = np.arange(size[0]) / factor - middle[0], np.arange(size[1]) / factor - middle[1]
    decay = np.exp(-(xs**2 + ys[:, None] ** 2) / (2 * (_DECAY * half) ** 2))
    prior = (decay * (there > 0.99) * (1 - (1 - _INSIDE) * inside)).astype(np.float32)
    if float(prior.sum()) < _LEAST_KNOWN_PX:
        return Tone(np.ones_like(seen), np.zeros_like(seen), to_grid)
    seen, model = _blurred(seen, _BLUR_PX), _blurred(model, _BLUR_PX)
    gain, offset = _fit(seen, model, prior, _REACH * 2 * half * factor)
    return Tone(gain, offset, to_grid)


def _fit(seen: F32, model: F32, prior: F32, sigma: float) -> tuple[F32, F32]:
    """Gain and offset per pixel and channel, `(h, w, 3)` each: robust over the whole, then local about that."""
    weight = prior
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    for _ in range(5):
        total = float(weight.sum())
        mean_m, mean_s = ((weight[..., None] * p).sum(axis=(0, 1)) / total for p in (model, seen))
        spread = (weight[..., None] * (model - mean_m) ** 2).sum(axis=(0, 1)) / total
        both = (weight[..., None] * (model - mean_m) * (seen - mean_s)).sum(axis=(0, 1)) / total
        gain = np.clip((both + _RIDGE / 4) / (spread + _RIDGE / 4), 0.3, 3.0)
        offset = mean_s - gain * mean_m
        off = np.sqrt(np.square(seen - gain * model - offset).sum(axis=2))
        size = max(1.4826 * _weighted_median(off, prior), _LEAST_LEVELS)
        weight = prior / (1 + np.square(off / (_CAUCHY * size)))
    return _local(seen, model, weight, gain, offset, sigma)


def _local(seen: F32, model: F32, weight: F32, gain: F32, offset: F32, sigma: float) -> tuple[F32, F32]:
    def smooth(image: F32) -> F32:
        return _blurred(image, sigma)

    known = smooth(weight)[..., None] + _PRIOR
    w = weight[..., None]
    mean_m = (smooth(w * model) + _PRIOR * model) / known
    mean_s = (smooth(w * seen) + _PRIOR * (gain * model + offset)) / known
    spread = smooth(w * model * model) / known + _PRIOR * model**2 / known - mean_m**2
    both = smooth(w * model * seen) / known + _PRIOR * model * (gain * model + offset) / known - mean_m * mean_s
    local = np.clip((both + _RIDGE * gain) / (np.maximum(spread, 0) + _RIDGE), 0.3, 3.0)
    return local.astype(np.float32), (mean_s - local * mean_m).astype(np.float32)


def _blurred(image: F32, sigma: float) -> F32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _weighted_median(values: F32, weight: F32) -> float:
    order = np.argsort(values, axis=None, kind="stable")
    cumulative = np.cumsum(weight.ravel()[order])
    return float(values.ravel()[order[int(np.searchsorted(cumulative, cumulative[-1] / 2))]])
