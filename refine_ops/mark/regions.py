"""A region between the page and the manifest. A mask that is being painted travels as strokes; pixels are made here."""

import io
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import groupby, pairwise
from typing import Annotated, Any, Final, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from refine_ops import storage
from refine_ops.config import ImageLimits, Settings
from refine_ops.errors import ItemError
from refine_ops.image.mask import decode_mask
from refine_ops.image.region import PackedMask, region_mask
from refine_ops.job.planning.rows import MAX_POINTS, MAX_REGIONS, MAX_STROKES_PX
from refine_ops.mark.manifest_file import region_row
from refine_ops.records import Mask, MaskReading, Region, Scribble

DEFAULT_PROMPT: Final = "Refine the marked region"
"""What a region says as long as nobody wrote anything: a manifest has no region without a prompt."""

_MASKS_KEPT: Final = 16
_ORIENTATION: Final = 0x0112
_LIES_ON_ITS_SIDE: Final = 5
Point = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class BrushStroke(Settings):
    """One stroke of the brush, or of the eraser, in pixels of the upright image."""

    points: tuple[Point, ...] = Field(min_length=1, max_length=MAX_POINTS)
    width: float = Field(gt=0, le=4096)
    erase: bool = False


class PaintedMask(Settings):
    """A mask: what was there (`base`, its URI), and the strokes since, in their order. `resize`: the base is of another
    image, whose region was copied to this one of another size."""

    base: str | None = None
    strokes: tuple[BrushStroke, ...] = Field((), max_length=MAX_POINTS)
    resize: bool = False


class PageRegion(Settings):
    """A region as the page holds it. Exactly one shape is set. `seed` is text, as a page's numbers end at 2^53."""

    region_id: str
    prompt: str
    box: tuple[int, int, int, int] | None = None
    scribble: dict[str, Any] | None = None
    mask: PaintedMask | None = None
    reference: str | None = None
    references: tuple[str, ...] = ()
    seed: str | None = None
    paste: Literal["mask", "box"] = "mask"
    mask_level: int | None = None
    mask_class: int | None = None
    mask_invert: bool = False


class PageRegions(Settings):
    """All regions of an image, of which of the image's versions the page made them, and which tab it is: what was sent
    again, or as the tab was closed, need not know the answer to what that tab sent before."""

    version: int = Field(ge=0)
    tab: str = Field("", max_length=64)
    regions: tuple[PageRegion, ...] = Field(max_length=MAX_REGIONS)


def to_page(region: Region) -> dict[str, Any]:
    """A region of the manifest for the page, URIs absolute."""
    row = region_row(region, "/\0")  # no URI lies below it
    if "mask" in row:
        row["mask"] = {"base": row["mask"], "strokes": []}
    if "seed" in row:
        row["seed"] = str(row["seed"])
    return row


def from_page(region: PageRegion, keep_mask: Callable[[PageRegion], str]) -> dict[str, Any]:
    """A region of the page as a raw row, to be checked as any other; `keep_mask` makes the file of a painted one."""
    row = {k: v for k, v in region.model_dump(mode="json").items() if v not in (None, (), [], False)}
    row["prompt"] = region.prompt.strip() or DEFAULT_PROMPT
    if region.mask is not None:
        untouched = region.mask.base is not None and not region.mask.strokes and not region.mask.resize
        row["mask"] = region.mask.base if untouched else keep_mask(region)
        if not untouched:  # the new file is plainly black and white
            row = {k: v for k, v in row.items() if k not in ("mask_level", "mask_class", "mask_invert")}
    return row


class MaskPainter:
    """Painted masks as pixels: strokes as scribbles are drawn, on what was there.

    The page sends all strokes since the base again with each one; the masks that were made last are kept, one bit a
    pixel, and only what is new is drawn on them.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._made: OrderedDict[Hashable, PackedMask] = OrderedDict()

    def painted(self, region: PageRegion, size: tuple[int, int]) -> Mask:
        """`bool (H, W)`, for one thread at a time.

        Args:
            size: (width, height) of the upright image.

        Raises:
            ItemError: `mask.empty` where nothing is left, `mask.strokes` where there are too many; as `decode_mask`.
        """
        assert region.mask is not None
        reading = MaskReading(region.mask_level, region.mask_class, region.mask_invert)
        length_px = sum(math.dist(a, b) for stroke in region.mask.strokes for a, b in pairwise(stroke.points))
        if length_px > MAX_STROKES_PX:
            raise ItemError(
                "mask.strokes", f"{length_px:.0f} px of strokes, at most {MAX_STROKES_PX}; open the image anew"
            )
        base, strokes = (size, region.mask.base, region.mask.resize, reading), region.mask.strokes
        known = next((n for n in range(len(strokes), 0, -1) if (base, strokes[:n]) in self._made), 0)
        if known:
            mask = self._made[base, strokes[:known]].unpacked()
        elif region.mask.base is not None:
            mask = base_mask(region.mask.base, size, reading, self._limits, resize=region.mask.resize)
        else:
            mask = np.zeros((size[1], size[0]), np.bool_)
        mask = self._drawn_on(mask, strokes[known:], size)
        if not mask.any():
            raise ItemError("mask.empty", f"region {region.region_id}: nothing is marked any more; delete the region")
        self._made[base, strokes] = PackedMask.of(mask)
        if len(self._made) > _MASKS_KEPT:
            self._made.popitem(last=False)
        return mask

    def _drawn_on(self, mask: Mask, strokes: tuple[BrushStroke, ...], size: tuple[int, int]) -> Mask:
        for (width_px, erase), alike in groupby(strokes, key=lambda s: (s.width, s.erase)):
            scribble = Scribble(tuple(stroke.points for stroke in alike), width_px)
            try:
                drawn = region_mask(Region("", "", scribble=scribble), size, None, self._limits)
            except ItemError as e:
                if e.reason != "scribble.outside":
                    raise
                continue  # beside the image: nothing is marked by it
            mask = mask & ~drawn if erase else mask | drawn
        return mask


def base_mask(uri: str, size: tuple[int, int], reading: MaskReading, limits: ImageLimits, *, resize: bool) -> Mask:
    """A mask file, `bool (H, W)`. Raises: ItemError -- as `decode_mask`; `resize` takes one of any size."""
    data = storage.read(uri, limits.max_bytes)
    if not resize:
        return decode_mask(data, name=uri, size=size, limits=limits, reading=reading)
    with Image.open(io.BytesIO(data)) as opened:
        turned = opened.getexif().get(_ORIENTATION, 1) >= _LIES_ON_ITS_SIDE
        own = (opened.height, opened.width) if turned else opened.size
    found = decode_mask(data, name=uri, size=own, limits=limits, reading=reading)
    scaled: Mask = cv2.resize(found.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return scaled


def mask_png(mask: Mask) -> bytes:
    """`bool (H, W)` as a grey PNG of 0 and 255."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask).view(np.uint8) * np.uint8(255)).save(out, "PNG")
    return out.getvalue()
