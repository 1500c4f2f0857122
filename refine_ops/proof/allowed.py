"""Where change is allowed: from the marked regions, the settings, and the file's own structure.

Nothing here knows the code that pastes and writes; that code is held to what is said here. A blend changes what lies
within its reach of what is pasted; a JPEG changes by whole MCUs.
"""

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from refine_ops.config import PasteSettings, WriteSettings
from refine_ops.records import Mask, PastePolicy

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """What was promised of a file.

    `same_format` is False where the settings let the format change. `by_blocks` is False where a JPEG is held to the
    blend's reach alone, as edits of another tool are.
    """

    paste: PasteSettings = field(default_factory=PasteSettings)
    jpeg_bleed: Literal["edge", "none"] = "edge"
    same_format: bool = True
    by_blocks: bool = True

    @classmethod
    def of(cls, paste: PasteSettings, write: WriteSettings) -> Self:
        """What a run with these settings promises."""
        return cls(paste, write.jpeg_bleed, write.output_format == "source" and write.jpeg_fallback == "refuse")

    @classmethod
    def within(cls, reach_px: int) -> Self:
        """An edit of another tool: nothing changes further than `reach_px` from what is marked."""
        return cls(PasteSettings(dilate_px=2 * reach_px + 1, blur_px=1), same_format=False, by_blocks=False)

    @property
    def confined(self) -> bool:
        return self.paste.confine == "region"


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """`where` is `bool (H, W)`, upright; `mcus` counts the MCUs of a JPEG whose coefficients may differ, else 0."""

    where: Mask
    mcus: int = 0


@dataclass(frozen=True, slots=True)
class _Blocks:
    """How a JPEG is laid out: one MCU in pixels, along which axes chroma is subsampled, and which way is up."""

    width: int
    height: int
    across: bool
    down: bool
    orientation: int


def allowed_change(
    regions: Iterable[tuple[Mask, PastePolicy]], size: tuple[int, int], source: bytes, written: bytes, rules: Rules
) -> Allowed:
    """The allowed change between two files.

    Args:
        regions: M of every region, `bool (H, W)`, upright, and what was pasted: M, or the whole of its box.
        size: (W, H), upright.
        source, written: The files; which formats they are in is read off them, not off the settings.
    """
    # The source's blocks: the output must have the same, and what an edited file says of itself proves nothing.
    blocks = _blocks(source) if rules.by_blocks and _is_jpeg(source) else None
    changed = np.zeros((size[1], size[0]), np.bool_)
    for mask, policy in regions:
        _add(changed, mask, policy, rules, blocks)
    if blocks is None or not _is_jpeg(written):
        return Allowed(changed)
    bleeds = rules.jpeg_bleed == "edge" and not rules.confined
    where, mcus = _touched(_stored(changed, blocks.orientation), blocks, bleeds)
    return Allowed(np.ascontiguousarray(_upright(where, blocks.orientation)), mcus)


def _add(changed: Mask, mask: Mask, policy: PastePolicy, rules: Rules, blocks: _Blocks | None) -> None:
    """Add to `changed` what one region's blend may change."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    pasted = mask
    if policy == "box":
        pasted = np.zeros_like(mask)
        pasted[y : y + height, x : x + width] = True
    if rules.confined:
        changed |= pasted if blocks is None else _inside(pasted, blocks)
        return
    reach = rules.paste.reach_px
    window = np.s_[max(0, y - reach) : y + height + reach, max(0, x - reach) : x + width + reach]
    grown = np.ascontiguousarray(pasted[window]).view(np.uint8)
    # One after the other, as Eq. 8 does: even kernels reach further one way, which their sum would lose.
    for side in (rules.paste.dilate_px, rules.paste.blur_px):
        grown = cv2.dilate(grown, np.ones((side, side), np.uint8))
    changed[window] |= grown.view(np.bool_)


def _touched(stored: Mask, blocks: _Blocks, bleeds: bool) -> tuple[Mask, int]:
    """What decoders may show differently once the MCUs are edited that `stored` touches; and how many these are."""
    rows, columns = window = _window(stored, blocks)
    part = stored[window]
    touched: Mask = np.any(_by_block(part, blocks, outside=False), axis=(1, 3))
    pixels = np.pad(_pixels(touched, blocks, part.shape), 1)
    if bleeds:
        # Between chroma samples a decoder interpolates, so an edited sample shows one pixel past its own.
        kernel = np.ones((3 if blocks.down else 1, 3 if blocks.across else 1), np.uint8)
        pixels = cv2.dilate(pixels.view(np.uint8), kernel).view(np.bool_)
    framed = np.zeros((stored.shape[0] + 2, stored.shape[1] + 2), np.bool_)
    framed[rows.start : rows.start + pixels.shape[0], columns.start : columns.start + pixels.shape[1]] = pixels
    return framed[1:-1, 1:-1], int(np.count_nonzero(touched))


def _inside(region: Mask, blocks: _Blocks) -> Mask:
    """Pixels of the MCUs wholly inside `region`, upright; beyond the picture's edge an MCU has nothing to change."""
    stored = _stored(region, blocks.orientation)
    window, inside = _window(stored, blocks), np.zeros(stored.shape, np.bool_)
    whole: Mask = np.all(_by_block(stored[window], blocks, outside=True), axis=(1, 3))
    inside[window] = _pixels(whole, blocks, inside[window].shape)
    return _upright(inside, blocks.orientation)


def _window(stored: Mask, blocks: _Blocks) -> tuple[slice, slice]:
    """The MCUs that hold anything of `stored`, as rows and columns of pixels: a region is small, a picture is not."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(stored).view(np.uint8))
    down, across = blocks.height, blocks.width
    return (
        slice(y // down * down, -(-(y + height) // down) * down),
        slice(x // across * across, -(-(x + width) // across) * across),
    )


def _by_block(stored: Mask, blocks: _Blocks, *, outside: bool) -> Mask:
    """`bool (rows, MCU height, columns, MCU width)`; `outside` fills what the last MCUs have beyond the edge."""
    rows, columns = -(-stored.shape[0] // blocks.height), -(-stored.shape[1] // blocks.width)
    padded = np.full((rows * blocks.height, columns * blocks.width), outside)
    padded[: stored.shape[0], : stored.shape[1]] = stored
    return padded.reshape(rows, blocks.height, columns, blocks.width)


def _pixels(grid: Mask, blocks: _Blocks, shape: tuple[int, ...]) -> Mask:
    """The pixels of the MCUs marked in `grid`, `bool (rows, columns)`."""
    return np.ascontiguousarray(grid.repeat(blocks.height, 0).repeat(blocks.width, 1)[: shape[0], : shape[1]])


def _is_jpeg(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff"


def _blocks(data: bytes) -> _Blocks:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        factors = [(h, v) for _, h, v, _ in getattr(image, "layer")]  # noqa: B009 - not in the class's annotations
        orientation = _orientation(image.info.get("exif", b""))
    if len(factors) == 1:  # one component is never interleaved: its MCU is one block, whatever its factors
        return _Blocks(8, 8, False, False, orientation)
    across, down = zip(*factors, strict=True)
    return _Blocks(8 * max(across), 8 * max(down), len(set(across)) > 1, len(set(down)) > 1, orientation)


def _orientation(block: bytes) -> int:
    """EXIF orientation by Pillow's reading of a JPEG's EXIF block; 1 where absent or malformed."""
    file = io.BytesIO(block.removeprefix(b"Exif\0\0"))
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        value = tags.get(_ORIENTATION, 1) if tags.tagtype.get(_ORIENTATION) == _SHORT else 1
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(stored: Mask, orientation: int) -> Mask:
    """EXIF 2.32, 4.6.4: where row 0 and column 0 of the stored picture are to be shown."""
    turned: npt.NDArray[np.bool_] = stored.T if orientation >= 5 else stored
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return turned


def _stored(shown: Mask, orientation: int) -> Mask:
    """The inverse of `_upright`."""
    turned: npt.NDArray[np.bool_] = shown
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return turned.T if orientation >= 5 else turned
