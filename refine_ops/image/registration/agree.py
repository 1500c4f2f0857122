"""What the region and its surroundings say of a registered reference: windows that support it, contradict it, or say
nothing.

Frame and small print of a label agree whatever its word is, so a near miss registers as well as the right reference;
only the damaged region itself can tell. Windows of 0.12 of its longer side are compared by normalised correlation
(brightness and colour together, so neither light nor contrast counts), after the reference is blurred to what the
region still resolves; each may lie 2 px off, as a pose is never exact and cloth never flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from refine_ops.image.formats.native import F32
from refine_ops.image.registration.descend import opponent
from refine_ops.image.registration.frames import centre_of, resized
from refine_ops.records import Mask, U8Image

_SIDE_PX: Final = 112
"""The mask's longer side at most where windows are compared."""
_WINDOW: Final = 0.12
_NOISE_PX: Final = 0.7
_BLURS_PX: Final = (0.0, 0.7, 1.1, 1.6, 2.3, 3.2, 4.5)
_COARSE_PX: Final = 4.0
_SHIFTS: Final = ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0), (0, 2), (0, -2))
_SOFT_PX: Final = 1.1
_KERNEL_GAIN: Final = 0.02
_KERNEL_PIXELS: Final = 400
_CLEARLY: Final = 0.01
_PULL: Final = 0.003
_SUPPORT: Final = 0.8
_CONTRADICTION: Final = 0.5
_CONTRAST: Final = 5.0
"""Standard deviation in a window, in levels of 255, below which it shows nothing."""
_RING: Final = 0.35
"""The surroundings: this share of half the mask's longer side, around it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of a part of the view. Shares of those where the reference shows something; the rest is undecided.

    `silence` are those where the view is flat. `excess` is the share of the part where the reference is flat and the
    view is not, `worst` the correlation that 95 % of the telling windows exceed, `mean` theirs, `blur_px` the blur of
    the reference (view px) that agreed best, `blurred_away` whether that was the strongest tried, `shift_px` how far
    windows lie off on average (view px), `telling` the share of the part where both show something, `sharpness` the
    view's own finest detail over its next coarser.
    """

    support: float
    contradiction: float
    silence: float
    excess: float
    worst: float
    mean: float
    blur_px: float
    shift_px: float
    telling: float
    sharpness: float
    blurred_away: bool


class ComparedViews:
    """A view and a warped reference at the scale where windows are compared."""

    def __init__(self, view: U8Image, warped: U8Image, covered: Mask, mask: Mask) -> None:
        half = centre_of(mask)[1]
        self._factor = min(1.0, _SIDE_PX / (2 * half))
        self._view, _ = resized(opponent(view), self._factor)
        self._model, _ = resized(opponent(warped), self._factor)
        inside, there = (self._reduced(part) for part in (mask, covered))
        self._inside = (inside > 0.5) & (there > 0.5)
        reach = max(3, round(_RING * half * self._factor))
        near = cv2.dilate((inside > 0).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
        self._around = near & (there > 0.99) & ~(cv2.dilate(inside, np.ones((5, 5), np.uint8)) > 0)
        self._window = max(5, round(_WINDOW * 2 * half * self._factor)) | 1

    def _reduced(self, part: Mask) -> F32:
        size = (self._view.shape[1], self._view.shape[0])
        return np.asarray(cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)

    def inside(self) -> Windows:
        """In the mask, the reference blurred to what is left there."""
        return self._best(self._inside)

    def around(self) -> Windows:
        """Around the mask, where the photo is undamaged: blurred no more than is clearly better."""
        return self._best(self._around, _CLEARLY)

    def coarse(self) -> Windows:
        """In the mask, both blurred by 4 px: what displaced details keep."""
        view, model = _blurred(self._view, _COARSE_PX), _blurred(self._model, _COARSE_PX)
        return self._compare(view, model, self._inside, 2 * self._window + 1, _COARSE_PX)

    def _best(self, part: Mask, clearly: float = 0.0) -> Windows:
        """By the blur that agrees best, or the least that does so but for `clearly`; where a kernel of any shape
        (motion, a disc, resampling) is better, by that."""
        smooth = _blurred(self._view, 0)
        tried = [self._compare(smooth, _blurred(self._model, b), part, self._window, b) for b in _BLURS_PX]
        most = max(w.mean for w in tried)
        best = next(i for i, w in enumerate(tried) if w.mean >= most - clearly)
        blur = _BLURS_PX[best]
        model = _blurred(self._model, blur)
        if blur >= _SOFT_PX and np.count_nonzero(part) > _KERNEL_PIXELS:
            shaped = _as_blurred(smooth, self._model, part)
            if self._compare(smooth, shaped, part, self._window, blur).mean > tried[best].mean + _KERNEL_GAIN:
                model = shaped
        return self._compare(smooth, model, part, self._window, blur, _SHIFTS)

    def _compare(
        self,
        view: F32,
        model: F32,
        part: Mask,
        reach: int,
        blur: float,
        shifts: Sequence[tuple[int, int]] = _SHIFTS[:1],
    ) -> Windows:
        view, model, part = _around(part, reach, view, model)
        box = (reach, reach)
        mean_v, mean_m = cv2.blur(view, box), cv2.blur(model, box)
        var_v = (cv2.blur(view * view, box) - mean_v**2).sum(axis=2)
        var_m = (cv2.blur(model * model, box) - mean_m**2).sum(axis=2)
        alike, off = np.full(var_v.shape, -1, np.float32), np.zeros(var_v.shape, np.float32)
        for dx, dy in shifts:
            moved, mean, var = (_moved(image, dx, dy) for image in (model, mean_m, var_m))
            both = (cv2.blur(view * moved, box) - mean_v * mean).sum(axis=2)
            found = both / np.sqrt(np.maximum(var_v * var, 1.0))
            off = np.where(found > alike, np.float32(np.hypot(dx, dy)), off)
            alike = np.maximum(alike, found)
        shown, seen = var_m > _CONTRAST**2, var_v > _CONTRAST**2
        values = alike[telling := part & shown & seen]
        area, whole = max(1, int(np.count_nonzero(part & shown))), max(1, int(np.count_nonzero(part)))
        return Windows(
            support=float(np.count_nonzero(values >= _SUPPORT) / area),
            contradiction=float(np.count_nonzero(values < _CONTRADICTION) / area),
            silence=float(np.count_nonzero(part & shown & ~seen) / area),
            excess=float(np.count_nonzero(part & seen & ~shown) / whole),
            worst=float(np.quantile(values, 0.05)) if values.size else 0.0,
            mean=float(values.mean()) if values.size else 0.0,
            blur_px=blur / self._factor,
            shift_px=float(off[telling].mean()) / self._factor if values.size else 0.0,
            telling=values.size / whole,
            sharpness=_sharpness(view, telling),
            blurred_away=blur == _BLURS_PX[-1],
        )


def _around(part: Mask, reach: int, view: F32, model: F32) -> tuple[F32, F32, Mask]:
    """All three cut to the part's box and the reach of its windows."""
    x, y, width, height = cv2.boundingRect(part.view(np.uint8))
    cut = slice(max(0, y - reach), y + height + reach), slice(max(0, x - reach), x + width + reach)
    return np.ascontiguousarray(view[cut]), np.ascontiguousarray(model[cut]), part[cut]


def _as_blurred(view: F32, model: F32, part: Mask) -> F32:
    """The model under the kernel of 7 x 7 taps, 2 px apart, that brings its brightness nearest to the view's in the
    part (least squares, pulled to none)."""
    soft = _blurred(model, 0.8)
    taps = [(2 * x, 2 * y) for y in range(-3, 4) for x in range(-3, 4)]
    design = np.stack([_moved(soft[..., 0], dx, dy)[part] for dx, dy in taps], axis=1)
    known, wanted = design - design.mean(axis=0), view[..., 0][part] - view[..., 0][part].mean()
    gram = (known.T @ known).astype(np.float64)
    pull = _PULL * np.trace(gram) / len(taps) + 1.0  # a flat part explains nothing
    weights = np.linalg.solve(gram + pull * np.eye(len(taps)), (known.T @ wanted).astype(np.float64))
    made = sum(float(weight) * _moved(soft, dx, dy) for weight, (dx, dy) in zip(weights, taps, strict=True))
    return np.asarray(made, np.float32)


def _blurred(image: F32, blur: float) -> F32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), float(np.hypot(blur, _NOISE_PX))), np.float32)


def _sharpness(view: F32, part: Mask) -> float:
    """Energy below about 2 px over that between 2 and 6 px, where there is something to see; edges 0.5, blur 0.1."""
    if not part.any():
        return 0.0
    fine, middle, coarse = view, cv2.GaussianBlur(view, (0, 0), 1.2), cv2.GaussianBlur(view, (0, 0), 3.0)
    bands = [float(np.square(a - b).sum(axis=2)[part].mean()) for a, b in ((fine, middle), (middle, coarse))]
    return float(np.sqrt(bands[0] / max(bands[1], 1e-3)))


def _moved(image: F32, dx: int, dy: int) -> F32:
    """Shifted by whole pixels, edges repeated."""
    if dx == dy == 0:
        return image
    rows = np.clip(np.arange(image.shape[0]) - dy, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) - dx, 0, image.shape[1] - 1)
    return np.ascontiguousarray(image[rows][:, columns])
