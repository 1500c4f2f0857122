"""Paste-back (Eq. 8-9) in the file's own colours and depth; nothing outside the blend's support is written."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.config import PasteSettings
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.formats.native import F32, Samples
from refine_ops.image.source import Source, as_stored, upright
from refine_ops.records import Blend, Box, FocusCrop, Mask, U8Image

_KEEP_RANGE: Final = 16 / 255
"""Up to this change, the source's own colour beyond 8-bit sRGB is faded out rather than dropped."""
_BLANK_RANGE: Final = 1 / 255
PAPER_KERNELS: Final = PasteSettings()
"""r = 7 and k = 11 of Eq. (8): the settings' defaults, named there alone."""


def blend_mask(mask: Mask, settings: PasteSettings = PAPER_KERNELS, within: Mask | None = None) -> Blend:
    """Blur(Dilate(M_c; r), k), Eq. (8), at native resolution.

    The paper blends the focused view and then resizes; here r and k count native pixels, and sigma is what OpenCV
    derives from k (2.0 for 11). 'full' divides by the minimum over M and clips at 1, so that every marked pixel is
    fully replaced, with the same reach; Eq. (8) alone gives the last marked pixel 0.93 and a 1-px stroke 0.9 at most.

    Args:
        mask: What is pasted, `bool (crop h, crop w)`; it must hold a marked pixel.
        within: Where change is permitted at all, same shape; the blend is 0 elsewhere.
    """
    kernel = np.ones((settings.dilate_px, settings.dilate_px), np.uint8)
    grown = cv2.dilate(mask.astype(np.float32), kernel)
    # Replicated borders: at the image's edge the blend stays what it is inside.
    size = settings.blur_px, settings.blur_px
    blend: Blend = np.clip(cv2.GaussianBlur(grown, size, 0, borderType=cv2.BORDER_REPLICATE), 0, 1)
    if settings.blend == "full":
        blend = np.minimum(blend / blend[mask].min(), np.float32(1))
    return blend if within is None else np.where(within, blend, np.float32(0))


def paste_back(below: U8Image, above: npt.NDArray[Any], blend: Blend) -> U8Image:
    """Eq. (9) in 8 bits: `above` over `below` (0 to 255, `(h, w, 3)`); `below` bit for bit where the blend is 0."""
    alpha = blend[:, :, None]
    mixed = alpha * above + (1 - alpha) * below
    return np.where(alpha > 0, np.rint(mixed), below).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a canvas showed in `box`: samples as they are stored, upright sRGB `uint8 (h, w, 3)`, and the change."""

    box: Box
    samples: Samples
    rgb: U8Image
    change: npt.NDArray[np.uint8]


class Canvas:
    """An editable copy of a source. Regions are pasted in turn; each sees what the ones before left."""

    def __init__(self, source: Source) -> None:
        native = source.native
        self._source = source
        self.samples: Samples = native.samples.copy()
        """The edited samples, laid out as `source.native.samples`."""
        self._upright: Samples = upright(self.samples, native.orientation)
        plain = native.bits == 8 and not native.alpha and colour.profile(native.model, native.icc).identity
        self._rgb: U8Image = self._upright if plain else source.rgb.copy()
        self._plain = plain
        self.change = np.zeros((source.height, source.width), np.uint8)
        """The union of all blends, upright, `uint8 (H, W)`: 0 untouched, 255 fully replaced."""

    @classmethod
    def from_source(cls, source: Source) -> "Canvas":
        return cls(source)

    @property
    def rgb(self) -> U8Image:
        """The current upright sRGB view, `uint8 (H, W, 3)`; read-only by convention."""
        return self._rgb

    @property
    def stored_rgb(self) -> U8Image:
        """The current sRGB view in stored orientation."""
        return as_stored(self._rgb, self._source.native.orientation)

    @property
    def support(self) -> Mask:
        """Where anything was blended in, `bool (H, W)`, upright."""
        return self.change > 0

    def saved(self, box: Box) -> Saved:
        """A copy of what is in `box`, to be restored after a trial."""
        window = _window(box)
        return Saved(box, self._upright[window].copy(), self._rgb[window].copy(), self.change[window].copy())

    def restore(self, saved: Saved) -> None:
        """Undo whatever was pasted inside the box since, bit for bit, in the support too."""
        window = _window(saved.box)
        self._upright[window] = saved.samples
        self._rgb[window] = saved.rgb
        self.change[window] = saved.change

    def paste(self, crop: FocusCrop, patch: F32, blend: Blend) -> None:
        """Eq. (9) on the crop C, computed in float in the source's own profile and depth; alpha is never edited.

        Args:
            patch: sRGB in [0, 1], `(crop h, crop w, 3)`, native resolution.
            blend: `(crop h, crop w)`, from `blend_mask`.

        Raises:
            ItemError: `patch.not_finite`, `patch.blank`.
        """
        x0, y0, x1, y1 = crop.crop
        _check_patch(patch, self._rgb[y0:y1, x0:x1])
        rows, columns = np.nonzero(blend.any(axis=1))[0], np.nonzero(blend.any(axis=0))[0]
        if not len(rows):
            return
        ys, xs = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        window = np.s_[y0 + rows[0] : y0 + rows[-1] + 1, x0 + columns[0] : x0 + columns[-1] + 1]
        weight = blend[ys, xs, None]
        native = self._upright[window]  # a view into `samples`, whatever the orientation
        edited = self._blended(native, self._rgb[window], patch[ys, xs], weight)
        # Not by arithmetic: a weight of 0 must leave the sample, also where converting it and back would round.
        np.copyto(native, edited, where=weight > 0)
        if not self._plain:
            self._rgb[window] = colour.render(np.ascontiguousarray(native), self._source.native, self._source.matte)
        levels = np.ceil(weight[..., 0] * 255).astype(np.uint8)  # up, or the faintest rim would count as untouched
        np.maximum(self.change[window], levels, out=self.change[window])

    def _blended(self, native: Samples, seen: U8Image, patch: F32, weight: F32) -> Samples:
        top = float(np.iinfo(native.dtype).max)
        own = native.astype(np.float32) / top
        if self._plain:
            target = patch
        elif self._source.native.alpha:
            target = np.concatenate([self._target(own[..., :-1], seen, patch, own[..., -1:]), own[..., -1:]], axis=2)
        else:
            target = self._target(own, seen, patch, None)
        blended: Samples = np.rint((own + weight * (target - own)) * top).astype(native.dtype)
        return blended

    def _target(self, own: F32, seen: U8Image, patch: F32, alpha: F32 | None) -> F32:
        """The patch in the source's colours, keeping what 8-bit sRGB could not show where the model left it alone.

        With `T` the conversion from sRGB, `T(patch) + k * (own - T(seen))`; k falls from 1 to 0 as the patch departs
        from what the model saw, so an untouched wide-gamut, 16-bit or CMYK colour comes back exactly.
        """
        shown: F32 = seen.astype(np.float32) / np.float32(255)
        if alpha is not None:
            matte = np.array(self._source.matte, np.float32) / np.float32(255)
            shown, patch = _under_matte(shown, alpha, matte), _under_matte(patch, alpha, matte)
        profile, bits = colour.profile(self._source.native.model, self._source.native.icc), self._source.native.bits
        keep = np.clip(1 - np.abs(patch - shown).max(axis=2, keepdims=True) / _KEEP_RANGE, 0, 1)
        target = profile.from_srgb(patch, own, bits) + keep * (own - profile.from_srgb(shown, own, bits))
        target = np.clip(target, 0, 1)
        return target if alpha is None else np.where(alpha > 0, target, own)


def _window(box: Box) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    return slice(y0, y1), slice(x0, x1)


def _under_matte(shown: F32, alpha: F32, matte: F32) -> F32:
    """The straight colour that shows as `shown` over `matte`; anything where `alpha` is 0."""
    return np.clip((shown - (1 - alpha) * matte) / np.maximum(alpha, np.float32(1 / 65535)), 0, 1)


def _check_patch(patch: F32, before: U8Image) -> None:
    if not np.isfinite(patch).all():
        raise ItemError("patch.not_finite", "the model returned NaN or infinity; try dtype float32 or another seed")
    if np.ptp(patch) < _BLANK_RANGE and np.ptp(before) > _BLANK_RANGE * 255 * 8:
        raise ItemError("patch.blank", "the model returned one flat colour; try another seed or dtype float32")
