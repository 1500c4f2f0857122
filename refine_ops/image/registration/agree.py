"""What the region and its surroundings say of a registered reference: windows that support it, contradict it, or say
nothing.

Frame and small print of a label agree whatever its word is, so a near miss registers as well as the right reference;
only the damaged region itself can tell. Windows of 0.12 of its longer side are compared by normalised correlation
(brightness and colour together, so neither light nor contrast counts), after the reference is blurred to what the
region still resolves; each may lie 2 px off, as a pose is never exact and cloth never flat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_FARTHEST: Final = 2
_SOFT_PX: Final = 1.1
_KERNEL_GAIN: Final = 0.02
_KERNEL_PIXELS: Final = 400
_CLEARLY: Final = 0.01
_PULL: Final = 0.003
_SUPPORT: Final = 0.8
_CONTRADICTION: Final = 0.5
_CONTRAST: Final = 5.0
"""Standard deviation in a window, in levels of 255, below which it shows nothing."""
_AS_DETAILED: Final = 0.6
"""A window shows what the reference shows there, be it that or something else, from this share of its detail on; one
with less is painted over, erased, or blurred further: it can neither confirm nor contradict."""
_FLAT: Final = 0.5
"""Of the upper quartile of the reference's detail: windows are held against that at least."""
_GAINS: Final = (0.2, 1.5)
_NOISE_POWER: Final = 50.0
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

    `off` is `shift_px` in pixels of the comparison, whose windows may lie off by 2 at most: of a large region the same
    share of its size. `clash` is the worst of the windows that are as detailed as the reference there, and lie among
    such: what is left of both pictures' power when one is taken from the other, 0 where they are equal, 0.5 where they
    have nothing in common, 1 and more where they are opposed. `hidden` are the windows where the reference shows
    something and the view has lost its detail.
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
    off: float = 0.0
    clash: float = 0.0
    hidden: float = 0.0


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
        return self._compare(*self._matched(self._inside), self._inside, _SHIFTS)

    def around(self) -> Windows:
        """Around the mask, where the photo is undamaged."""
        return self._compare(*self._as_around, self._around, _SHIFTS)

    def intact(self) -> Windows:
        """In the mask, the reference as sharp as the photo is around it: what is left there whole."""
        return self._compare(*self._as_around, self._inside, _SHIFTS)

    @cached_property
    def _as_around(self) -> tuple[F32, F32, float]:
        """Blurred no more than is clearly better, as the photo is undamaged there."""
        return self._matched(self._around, _CLEARLY)

    def coarse(self) -> Windows:
        """In the mask, both blurred by 4 px: what displaced details keep."""
        view, model = _blurred(self._view, _COARSE_PX), _blurred(self._model, _COARSE_PX)
        return self._compare(view, model, _COARSE_PX, self._inside, reach=2 * self._window + 1)

    def _matched(self, part: Mask, clearly: float = 0.0) -> tuple[F32, F32, float]:
        """View and reference, by the blur that agrees best, or the least that does so but for `clearly`; where a kernel
        of any shape (motion, a disc, resampling) is better, by that."""
        smooth = _blurred(self._view, 0)
        alike = _Likeness(smooth, part, self._window)
        tried = [alike.mean(_blurred(self._model, b)) for b in _BLURS_PX]
        most = max(tried)
        best = next(i for i, mean in enumerate(tried) if mean >= most - clearly)
        blur = _BLURS_PX[best]
        model = _blurred(self._model, blur)
        if blur >= _SOFT_PX and np.count_nonzero(part) > _KERNEL_PIXELS:
            shaped = _as_blurred(smooth, self._model, part)
            if alike.mean(shaped) > tried[best] + _KERNEL_GAIN:
                model = shaped
        return smooth, model, blur

    def _compare(
        self,
        view: F32,
        model: F32,
        blur: float,
        part: Mask,
        shifts: Sequence[tuple[int, int]] = _SHIFTS[:1],
        reach: int = 0,
    ) -> Windows:
        reach = reach or self._window
        view, model, part = _around(part, reach, view, model)
        box = (reach, reach)
        mean_v, mean_m = cv2.blur(view, box), cv2.blur(model, box)
        var_v = (cv2.blur(view * view, box) - mean_v**2).sum(axis=2)
        var_m = (cv2.blur(model * model, box) - mean_m**2).sum(axis=2)
        alike, off = np.full(var_v.shape, -1, np.float32), np.zeros(var_v.shape, np.float32)
        shared, there = np.zeros_like(var_v), var_m
        movable = [_movable(image, _FARTHEST) for image in (model, mean_m, var_m)]
        for dx, dy in shifts:
            moved, mean, var = (move(dx, dy) for move in movable)
            both = (cv2.blur(view * moved, box) - mean_v * mean).sum(axis=2)
            found = both / np.sqrt(np.maximum(var_v * var, 1.0))
            nearer = found > alike
            off = np.where(nearer, np.float32(np.hypot(dx, dy)), off)
            shared, there = np.where(nearer, both, shared), np.where(nearer, var, there)
            alike = np.maximum(alike, found)
        shown, seen = var_m > _CONTRAST**2, var_v > _CONTRAST**2
        values = alike[telling := part & shown & seen]
        area, whole = max(1, int(np.count_nonzero(part & shown))), max(1, int(np.count_nonzero(part)))
        clash, hidden = 0.0, 0.0
        if len(shifts) > 1 and part.any():
            gains = shared[telling] / there[telling].clip(1.0)
            gain = np.float32(np.clip(np.median(gains) if gains.size else 1.0, *_GAINS))
            power = var_v + gain * gain * there
            left = (power - 2 * gain * shared) / (power + _NOISE_POWER)
            detailed, lost = _detailed(view, gain * model, part, reach)
            clash = float(left[detailed].max(initial=0.0))
            hidden = float(np.count_nonzero(lost & part & shown) / area)
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
            off=float(off[telling].mean()) if values.size else 0.0,
            clash=clash,
            hidden=hidden,
        )


class _Likeness:
    """The mean correlation of a part's windows, of one view with model after model: what does not change is kept."""

    def __init__(self, view: F32, part: Mask, reach: int) -> None:
        self._box, self._reach, self._whole = (reach, reach), reach, part
        self._view, _, self._part = _around(part, reach, view, view)
        self._mean = cv2.blur(self._view, self._box)
        self._power = (cv2.blur(self._view * self._view, self._box) - self._mean**2).sum(axis=2)
        self._seen = self._part & (self._power > _CONTRAST**2)

    def mean(self, model: F32) -> float:
        _, model, _ = _around(self._whole, self._reach, model, model)
        mean = cv2.blur(model, self._box)
        power = (cv2.blur(model * model, self._box) - mean**2).sum(axis=2)
        telling = self._seen & (power > _CONTRAST**2)
        if not telling.any():
            return 0.0
        both = (cv2.blur(self._view * model, self._box) - self._mean * mean).sum(axis=2)[telling]
        found = both / np.sqrt(np.maximum(self._power[telling] * power[telling], 1.0))
        return float(np.maximum(found, -1).mean())


def _detailed(view: F32, model: F32, part: Mask, reach: int) -> tuple[Mask, Mask]:
    """Windows among windows that are as detailed as the reference's, and those that have lost what it shows."""
    fine = (image - cv2.GaussianBlur(image, (0, 0), 1.2) for image in (view, model))
    detail, wanted = (np.sqrt(cv2.blur(np.square(f).sum(axis=2), (reach, reach)).clip(0)) for f in fine)
    least = np.maximum(wanted, _FLAT * np.quantile(wanted[part], 0.75))
    kept = part & (detail > _AS_DETAILED * least)
    among = cv2.erode(kept.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    return among, detail < _AS_DETAILED * wanted


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
    move = _movable(soft, 6)
    design = np.stack([move(dx, dy)[..., 0][part] for dx, dy in taps], axis=1)
    known, wanted = design - design.mean(axis=0), view[..., 0][part] - view[..., 0][part].mean()
    gram = (known.T @ known).astype(np.float64)
    pull = _PULL * np.trace(gram) / len(taps) + 1.0  # a flat part explains nothing
    weights = np.linalg.solve(gram + pull * np.eye(len(taps)), (known.T @ wanted).astype(np.float64))
    made = sum(float(weight) * move(dx, dy) for weight, (dx, dy) in zip(weights, taps, strict=True))
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


def _movable(image: F32, reach: int) -> Callable[[int, int], F32]:
    """The image shifted by whole pixels, as far as `reach`, edges repeated: windows on one padded copy."""
    height, width = image.shape[:2]
    wide = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REPLICATE)

    def moved(dx: int, dy: int) -> F32:
        return np.asarray(wide[reach - dy : reach - dy + height, reach - dx : reach - dx + width], np.float32)

    return moved
