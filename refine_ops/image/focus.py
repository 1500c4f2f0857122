"""Where the model looks: the focus crop (Eq. 3-5), its view at model size, and the one resampling back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.errors import ItemError
from refine_ops.image.formats.native import F32
from refine_ops.image.region import tight_box
from refine_ops.records import Box, F32Image, FocusCrop, Mask, U8Image

Pixel = TypeVar("Pixel", bound=np.generic)
_REFERENCE_SIDE_PX: Final = 1024
_STRIP_PIXELS: Final = 1 << 17
_RATIOS: Final = ((1, 1), (5, 4), (4, 3), (3, 2), (2, 1), (3, 1), (4, 1))
"""Aspect ratios offered, long to short side. Few, so that crops share model sizes and batch together."""


@dataclass(frozen=True, slots=True)
class Displacement:
    """How the model displaced the content of a view, in native pixels about the view's centre.

    What belongs at offset `x` from the centre is found at `scale * x + (dx, dy)`.
    """

    dx_px: float = 0.0
    dy_px: float = 0.0
    scale: float = 1.0


NO_DISPLACEMENT: Final = Displacement()
COARSE: Final = 0.5
"""Seen at less than half its own size a region visibly loses detail: nothing finer than 2 px can be made."""


def margin_in_pixels(
    size: tuple[int, int], margin: int, unit: Literal["image_1mp", "native"], reach_px: int = 0
) -> int:
    """The margin m in native pixels, at least `reach_px` so that the blend ends inside the crop.

    'image_1mp' counts pixels of the image scaled to the area of 1024^2, as the released inference does.
    """
    scale = math.sqrt(size[0] * size[1]) / _REFERENCE_SIDE_PX if unit == "image_1mp" else 1.0
    return max(round(margin * scale), reach_px)


def plan_crop(mask: Mask, *, margin_px: int, grid_px: int, pixels: int) -> FocusCrop:
    """C = Expand(BBox(M), m), clipped (Eq. 3-4), grown to the exact aspect ratio of a model size.

    Of the model sizes (multiples of `grid_px`, at most `pixels` in area) the one that shows the crop largest is taken,
    so (C + pad) and the size have equal ratios and the resize stretches nothing. Growing moves the crop inside the
    image first; only what exceeds the image is padded.

    Raises:
        ItemError: `mask.empty`.
    """
    height, width = mask.shape
    tight = tight_box(mask)
    x0, y0 = max(tight[0] - margin_px, 0), max(tight[1] - margin_px, 0)
    x1, y1 = min(tight[2] + margin_px, width), min(tight[3] + margin_px, height)
    best = max(_fits((x1 - x0, y1 - y0), (width, height), grid_px, pixels), key=lambda fit: fit.rank)
    return crop_about((x0, y0, x1, y1), best.view, best.size, (width, height), tight)


def crop_about(box: Box, view: tuple[int, int], size: tuple[int, int], image: tuple[int, int], tight: Box) -> FocusCrop:
    """The crop whose native view is `view` = (width, height), about `box`, inside the image of size `image`; `size` is
    the model's, of the same ratio."""
    left, right, pad_left, pad_right = _place(box[0], box[2], view[0], image[0])
    top, bottom, pad_top, pad_bottom = _place(box[1], box[3], view[1], image[1])
    return FocusCrop(tight, (left, top, right, bottom), (pad_left, pad_top, pad_right, pad_bottom), size)


def zoom_of(crop: Box, size: tuple[int, int]) -> float:
    """Model pixels per native pixel of a crop that the model sees at `size` = (width, height); 1 is the file's own."""
    x0, y0, x1, y1 = crop
    return min(size[0] / (x1 - x0), size[1] / (y1 - y0))  # of a padded crop the other side is the true one


def coarse(zoom: float) -> str:
    """What a person should know of a region larger than the model's picture; empty where it is not."""
    if zoom >= COARSE:
        return ""
    return (
        f"larger than the model's picture: seen at {zoom:.2f} of its size, so nothing finer than {1 / zoom:.0f} px can "
        "be made; mark smaller regions, or use a model with a larger picture"
    )


def view(rgb: U8Image, crop: FocusCrop) -> U8Image:
    """I_c = Crop(I, C) at model size, `uint8 (h, w, 3)` (Eq. 5)."""
    return view_of(crop_of(rgb, crop.crop), crop)


def view_of(part: U8Image, crop: FocusCrop) -> U8Image:
    """`view` of what lies on C, `uint8 (crop h, crop w, 3)`."""
    # Mirrored, not black: the model continues what it sees, and a black bar would be something to continue.
    return _resampled(part, crop, Image.Resampling.LANCZOS, "reflect")


def view_mask(part: Mask, crop: FocusCrop) -> Mask:
    """M_c at model size, `bool (h, w)`: True wherever any marked pixel falls; padding is not marked.

    Args:
        part: The mask on C, `bool (crop h, crop w)`.
    """
    return _resampled(part.astype(np.float32), crop, Image.Resampling.BOX, "constant") > 0


def _resampled(part: npt.NDArray[Pixel], crop: FocusCrop, method: Image.Resampling, mode: Any) -> npt.NDArray[Pixel]:
    """C padded and brought to model size, one axis after the other, as Pillow does it.

    The axis with more padding comes last, and in strips: 24000 x 8 px, padded whole to 4:1, would be 144 million.
    """
    left, top, right, bottom = crop.pad
    rows, columns = (0, (top, bottom), crop.size[1]), (1, (left, right), crop.size[0])
    for axis, pad, length in (columns, rows) if top + bottom >= left + right else (rows, columns):
        across = part.shape[1 - axis]
        step = max(1, _STRIP_PIXELS // (part.shape[axis] + sum(pad))) if any(pad) else across
        strips = []
        for start in range(0, across, step):
            strip = part[start : start + step] if axis else part[:, start : start + step]
            grown = np.pad(strip, [pad if a == axis else (0, 0) for a in range(part.ndim)], mode=mode)
            size = (length, grown.shape[0]) if axis else (grown.shape[1], length)
            strips.append(np.asarray(Image.fromarray(grown).resize(size, method)))
        part = strips[0] if len(strips) == 1 else np.concatenate(strips, axis=1 - axis)
    return part


def unview(
    patch: F32Image, crop: FocusCrop, displacement: Displacement = NO_DISPLACEMENT, size: tuple[int, int] | None = None
) -> F32:
    """The patch at native resolution on C, `float32 (crop h, crop w, 3)`, padding removed, `displacement` undone.

    The only time a patch is resampled: displacement and the crop out of the padding are one antialiased Lanczos
    resize from a sub-pixel box; there and back (`view`, then this) it loses 20 % less than bicubic. `size` = (width,
    height) replaces C's own, for estimates on a smaller picture.
    """
    width, height = crop.size
    x0, y0, x1, y1 = crop.crop
    left, top, right, bottom = crop.pad
    view_width, view_height = left + (x1 - x0) + right, top + (y1 - y0) + bottom
    zoom = width / view_width
    scale, dx, dy = displacement.scale, displacement.dx_px, displacement.dy_px
    xs = [_displaced(edge, view_width, scale, dx) * zoom for edge in (left, left + x1 - x0)]
    ys = [_displaced(edge, view_height, scale, dy) * zoom for edge in (top, top + y1 - y0)]
    # Undoing it may ask for pixels just past the patch; Pillow refuses a box outside, so the patch's edge is repeated.
    spare = max(0, math.ceil(max(-xs[0], -ys[0], xs[1] - width, ys[1] - height)))
    size = size or (x1 - x0, y1 - y0)
    box = (xs[0] + spare, ys[0] + spare, xs[1] + spare, ys[1] + spare)
    planes = []
    for channel in range(3):
        plane = np.pad(patch[..., channel], spare, mode="edge") if spare else patch[..., channel]
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        planes.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box)))
    native: F32 = np.clip(np.stack(planes, axis=-1), 0, 1)
    return native


def crop_of(image: npt.NDArray[Pixel], box: Box) -> npt.NDArray[Pixel]:
    """The part of an array `(H, W, ...)` inside `box`, as a view."""
    x0, y0, x1, y1 = box
    return image[y0:y1, x0:x1]


def grown(box: Box, by_px: int, size: tuple[int, int]) -> Box:
    """`box` with `by_px` on every side, clipped to an image of `size` = (width, height)."""
    x0, y0, x1, y1 = box
    return max(0, x0 - by_px), max(0, y0 - by_px), min(size[0], x1 + by_px), min(size[1], y1 + by_px)


@dataclass(frozen=True, slots=True)
class _SizeFit:
    """A model size and the native view `(width, height)` of the same ratio that holds the crop."""

    size: tuple[int, int]
    view: tuple[int, int]
    padded: int

    @property
    def rank(self) -> tuple[float, int]:
        return self.size[0] / self.view[0], -self.padded


def _fits(need: tuple[int, int], image: tuple[int, int], grid_px: int, pixels: int) -> Iterator[_SizeFit]:
    for across, down, unit_px in model_shapes(grid_px, pixels):
        units = max(-(-need[0] // across), -(-need[1] // down))
        shape = across * units, down * units
        padded = max(0, shape[0] - image[0]) * shape[1] + max(0, shape[1] - image[1]) * shape[0]
        yield _SizeFit((across * unit_px, down * unit_px), shape, padded)


def model_shapes(grid_px: int, pixels: int) -> list[tuple[int, int, int]]:
    """The model's sizes as (across, down, unit): `across * unit` by `down * unit` px, at most `pixels` in area, the
    squarest first.

    Raises:
        ItemError: `focus.too_small`: there is none.
    """
    cells = pixels // grid_px**2
    shapes = [
        (across, down, math.isqrt(cells // (long * short)) * grid_px)
        for long, short in _RATIOS
        if cells >= long * short
        for across, down in sorted({(long, short), (short, long)})
    ]
    if not shapes:
        raise ItemError(
            "focus.too_small", f"a budget of {pixels} px holds no {grid_px} x {grid_px} cell; raise focus_pixels"
        )
    return shapes


def _place(start: int, stop: int, length: int, limit: int) -> tuple[int, int, int, int]:
    """Grow [start, stop) to `length` about its centre, kept inside [0, limit): (start, stop, pad before, after)."""
    if length >= limit:
        before = (length - limit) // 2
        return 0, limit, before, length - limit - before
    first = min(max(start - (length - (stop - start)) // 2, 0), limit - length)
    return first, first + length, 0, 0


def _displaced(edge: float, length: int, scale: float, shift: float) -> float:
    centre = length / 2
    return centre + scale * (edge - centre) + shift
