"""Pictures for the report: cut, shrunk and encoded; the difference map is lossless."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import Box, Mask, U8Image
from refine_ops.report.figures import Window

_SIMPLIFY_PX = 0.75
_MAX_LINES = 40
_PNG_LEVEL = 4

SeamLine = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Whole upright images (`uint8 (H, W, 3)`), the allowed change (`bool (H, W)`) and the WebP quality."""

    before: U8Image
    after: U8Image
    allowed: Mask
    quality: int


def window(
    title: str,
    box: Box,
    shown: Shown,
    *,
    mask: Mask | None = None,
    raw: U8Image | None = None,
    seam: SeamLine = (),
    longest_px: int | None = None,
) -> Window:
    """Cut `box` out of the images and encode it.

    Args:
        mask: `bool (H, W)` of the whole image, drawn as an outline.
        raw: the raw patch at the size of `box`.
        seam: the worst stretch of boundary, in pixels of the whole image.
        longest_px: longest side of the pictures (larger boxes are shrunk by area); None: native pixels.
    """
    x0, y0, x1, y1 = box
    cut = np.s_[y0:y1, x0:x1]
    scale = min(1.0, longest_px / max(x1 - x0, y1 - y0)) if longest_px else 1.0
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    channels = cv2.split(cv2.absdiff(shown.before[cut], shown.after[cut]))
    difference = np.asarray(cv2.max(cv2.max(channels[0], channels[1]), channels[2]), np.uint8)
    return Window(
        title=title,
        box=box,
        scale=scale,
        width=size[0],
        height=size[1],
        before=_webp(_resized(shown.before[cut], size), shown.quality),
        after=_webp(_resized(shown.after[cut], size), shown.quality),
        difference=encode_png(_shrunk_by_maximum(difference, size), _PNG_LEVEL),
        raw=_webp(_resized(raw, size), shown.quality) if raw is not None else b"",
        mask_lines=_outline(mask[cut], scale) if mask is not None else (),
        allowed_lines=_outline(shown.allowed[cut], scale),
        seam_line=tuple((round((x - x0) * scale), round((y - y0) * scale)) for x, y in seam),
    )


def thumbnail(image: U8Image, around: Box | None, side_px: int, quality: int) -> bytes:
    """A square WebP of the place the edit is at (at least a third of the image's short side), or of the whole."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = around or (0, 0, width, height)
    side = min(max(x1 - x0, y1 - y0, min(width, height) // 3, 1), width, height)
    left = min(max(0, (x0 + x1 - side) // 2), width - side)
    top = min(max(0, (y0 + y1 - side) // 2), height - side)
    return _webp(_resized(image[top : top + side, left : left + side], (side_px, side_px)), quality)


def picture(image: U8Image, longest_px: int, quality: int) -> bytes:
    """A whole image as WebP, shrunk by area where it is larger."""
    height, width = image.shape[:2]
    scale = min(1.0, longest_px / max(width, height))
    return _webp(_resized(image, (max(1, round(width * scale)), max(1, round(height * scale)))), quality)


def _resized(image: U8Image, size: tuple[int, int]) -> U8Image:
    if (image.shape[1], image.shape[0]) == size:
        return image
    shrinks = size[0] <= image.shape[1]
    resized: U8Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized


def _shrunk_by_maximum(difference: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """So that a single changed pixel is still seen."""
    if (difference.shape[1], difference.shape[0]) == size:
        return difference
    factor = -(-difference.shape[1] // size[0])
    shrunk: npt.NDArray[np.uint8] = cv2.resize(
        cv2.dilate(difference, np.ones((factor, factor), np.uint8)), size, interpolation=cv2.INTER_NEAREST
    )
    return shrunk


def _outline(mask: Mask, scale: float) -> tuple[SeamLine, ...]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    largest: Sequence[npt.NDArray[np.int32]] = sorted(contours, key=len, reverse=True)[:_MAX_LINES]
    lines = (cv2.approxPolyDP(contour, _SIMPLIFY_PX / scale, True)[:, 0] for contour in largest)
    return tuple(tuple((round(x * scale), round(y * scale)) for x, y in line.tolist()) for line in lines)


def _webp(rgb: U8Image, quality: int) -> bytes:
    """Method 2 takes half the default's time for 3 % more bytes."""
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "WEBP", quality=quality, method=2)
    return out.getvalue()
