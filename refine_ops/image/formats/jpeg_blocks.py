"""Edit a JPEG in its coefficients, so that what is not edited is not touched.

Every coefficient of an edited block becomes `coefficient + round(DCT(edited - decoded) / q)`: where nothing was edited
the difference is zero and the block stays what it was, whatever the table, sampling or coding process.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.errors import ItemError
from refine_ops.image.formats.codec import Bleed
from refine_ops.image.formats.native import F32, Samples
from refine_ops.records import Mask

_BATCH_PX: Final = 1 << 20
_LIMIT: Final = 1023
"""Largest coefficient every 8-bit baseline decoder accepts."""
_YCC: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float32
)
_JCS_YCBCR, _JCS_CMYK, _JCS_YCCK = 3, 4, 5


@dataclass(frozen=True, slots=True)
class Component:
    """Sampling factors and quantisation slot of one colour component."""

    h: int
    v: int
    table: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What decides where a pixel's coefficients are. `table_slots` are those the file defines, ascending; `apart` says
    that its first scan lacks some of the components."""

    width: int
    height: int
    components: tuple[Component, ...]
    table_slots: tuple[int, ...]
    apart: bool = False

    @property
    def mcu_px(self) -> tuple[int, int]:
        """(width, height) of one MCU in pixels; a single component is never interleaved, so 8x8."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(c.h for c in self.components), 8 * max(c.v for c in self.components)


def touched_mcus(support: Mask, frame: Frame) -> Mask:
    """`bool (MCU rows, MCU columns)`: MCUs that hold a supported pixel. `support` is in stored orientation."""
    width, height = frame.mcu_px
    rows, columns = -(-frame.height // height), -(-frame.width // width)
    padded = np.zeros((rows * height, columns * width), np.bool_)
    padded[: frame.height, : frame.width] = support
    return np.asarray(padded.reshape(rows, height, columns, width).any(axis=(1, 3)))


def whole_mcus(region: Mask, frame: Frame) -> Mask:
    """`bool (H, W)`, stored orientation: pixels of the MCUs that lie wholly inside `region`."""
    width, height = frame.mcu_px
    whole = ~touched_mcus(~region, frame)
    return np.repeat(np.repeat(whole, height, axis=0), width, axis=1)[: frame.height, : frame.width]


def splice(data: bytes, frame: Frame, before: Samples, after: Samples, touched: Mask, bleed: Bleed) -> bytes:
    """Write `after` into the coefficients of the `touched` MCUs: a complete JPEG, but without metadata.

    Args:
        before: The decoded source, `uint8 (H, W, C)`, stored orientation; CMYK counts ink.
        after: The edited samples, equal to `before` outside the touched MCUs.
        touched: `touched_mcus` of the support; nowhere else does a coefficient change.

    Raises:
        ItemError: `jpeg.no_backend` where pyjpegio is not installed, `jpeg.refused` where it cannot read the file.
    """
    try:
        import jpegio
    except ImportError as error:
        raise ItemError(
            "jpeg.no_backend",
            "editing JPEG coefficients needs pyjpegio, which has no build for this platform; set write.jpeg_fallback "
            "or write.output_format to 'png'",
        ) from error
    try:
        with _memory_file(data) as path:
            coded = jpegio.read(path)
        _check_agreement(coded, frame)
        _edit(coded, frame, before, after, touched, bleed)
        # Metadata goes back segment by segment from the source's own bytes; the library would rewrite it.
        coded.markers = []
        # The source's Huffman tables may lack a symbol that an edited coefficient needs.
        coded.optimize_coding = True
        if frame.apart:
            # pyjpegio leaves the table numbers of what the first scan lacks as they lie in memory. Tables are made
            # anew, so any that are legal do; these are the usual ones.
            for index, component in enumerate(coded.comp_info):
                component.dc_tbl_no = component.ac_tbl_no = min(index, 1)
        with _memory_file(b"") as path:
            coded.write(path)
            with open(path, "rb") as written:
                return written.read()
    except (RuntimeError, ValueError) as error:
        raise ItemError(
            "jpeg.refused", f"pyjpegio cannot edit this JPEG ({error}); set write.jpeg_fallback to 'png'"
        ) from error


def _edit(coded: Any, frame: Frame, before: Samples, after: Samples, touched: Mask, bleed: Bleed) -> None:
    # Decoders smooth subsampled chroma over a block's edge: an MCU with an unedited neighbour changes that neighbour's
    # decoded pixels too. With bleed "none" only MCUs among edited ones get new chroma; the picture ends without one.
    interior = cv2.erode(touched.view(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).view(np.bool_)
    tables = {slot: coded.quant_tables[i].astype(np.float32) for i, slot in enumerate(frame.table_slots)}
    width, height = frame.mcu_px
    single = len(frame.components) == 1
    rows, columns = np.nonzero(touched)
    step = max(1, _BATCH_PX // (width * height))
    for start in range(0, len(rows), step):
        my, mx = rows[start : start + step], columns[start : start + step]
        # MCUs past the picture's edge are filled with its last row and column, as encoders do.
        ys = np.minimum(my[:, None] * height + np.arange(height), frame.height - 1)[:, :, None]
        xs = np.minimum(mx[:, None] * width + np.arange(width), frame.width - 1)[:, None, :]
        difference = after[ys, xs].astype(np.float32) - before[ys, xs]
        for index, plane in enumerate(_planes(difference, coded.jpeg_color_space)):
            # The sampling factors of a single component mean nothing (and files with 2x2 for grey exist).
            part = Component(1, 1, frame.components[0].table) if single else frame.components[index]
            coarse = (part.h * 8, part.v * 8) != (width, height)
            keep = interior[my, mx] if coarse and bleed == "none" else np.ones(len(my), np.bool_)
            _add(coded.coef_arrays[index], part, tables[part.table], plane[keep], my[keep], mx[keep])


def _planes(difference: F32, space: int) -> Iterator[F32]:
    """Differences of decoded samples, `(N, h, w, C)`, as differences of the coded components, each `(N, h, w)`.

    Pillow inverts CMYK, so ink differences change sign; YCCK codes the inverse of CMY as YCC, which changes it back.
    """
    if space in (_JCS_YCBCR, _JCS_YCCK):
        ycc = difference[..., :3] @ _YCC.T
        yield from (ycc[..., i] for i in range(3))
        if space == _JCS_YCCK:
            yield -difference[..., 3]
    else:
        sign = -1 if space == _JCS_CMYK else 1
        yield from (sign * difference[..., i] for i in range(difference.shape[-1]))


def _add(coefficients: npt.NDArray[np.int32], part: Component, table: F32, plane: F32, my: Any, mx: Any) -> None:
    """Add `round(DCT(plane) / table)` to the blocks of the MCUs at `(my, mx)`; blocks past the edge are skipped."""
    count, height, width = plane.shape
    shape = (count, part.v * 8, height // (part.v * 8), part.h * 8, width // (part.h * 8))
    sampled = plane.reshape(shape).mean(axis=(2, 4))
    blocks = sampled.reshape(count, part.v, 8, part.h, 8).transpose(0, 1, 3, 2, 4)
    delta = np.rint(_DCT @ blocks @ _DCT.T / table).astype(np.int32)
    by = np.broadcast_to((my[:, None, None] * part.v + np.arange(part.v)[:, None]), delta.shape[:3])
    bx = np.broadcast_to((mx[:, None, None] * part.h + np.arange(part.h)), delta.shape[:3])
    grid_rows, grid_columns = coefficients.shape[0] // 8, coefficients.shape[1] // 8
    # Only blocks that change: an untouched block may hold a coefficient over the limit, which must stay.
    edited = (by < grid_rows) & (bx < grid_columns) & delta.any(axis=(3, 4))
    view = coefficients.reshape(grid_rows, 8, grid_columns, 8).transpose(0, 2, 1, 3)
    old, change = view[by[edited], bx[edited]], delta[edited]
    view[by[edited], bx[edited]] = np.where(change == 0, old, np.clip(old + change, -_LIMIT, _LIMIT))


def _check_agreement(coded: Any, frame: Frame) -> None:
    """Our reading of the headers and the library's must agree before any block is addressed."""
    sampling = [(c.h_samp_factor, c.v_samp_factor, c.quant_tbl_no) for c in coded.comp_info]
    if (coded.image_width, coded.image_height) != (frame.width, frame.height) or sampling != [
        (c.h, c.v, c.table) for c in frame.components
    ]:
        raise ValueError("its headers contradict each other")
    slots = list(frame.table_slots)
    if len(coded.quant_tables) != len(slots) or any(c.table not in slots for c in frame.components):
        raise ValueError("its quantisation tables are incomplete")


def _dct_matrix() -> F32:
    k, n = np.arange(8)[:, None], np.arange(8)[None, :]
    matrix = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


_DCT: Final = _dct_matrix()


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path to `data` for a library that reads paths only; in memory on Linux, so a killed rank leaves nothing."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("refine-jpeg")
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp(".jpg")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield path
    finally:
        os.close(descriptor)
        if sys.platform != "linux":
            os.unlink(path)
