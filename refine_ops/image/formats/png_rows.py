"""PNG rows spliced: rows that did not change keep the bytes and the filter that the file gave them.

A filtered row depends on its own samples and on those of the row above, so only the edited rows and the one below each
are filtered anew (with the filter the file chose there); the stream is then deflated as a whole.
"""

import sys
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from refine_ops.image.formats.native import Samples
from refine_ops.image.formats.png import Chunks

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
_GROWTH: Final = 1.1
"""ISA-L is ten times as fast as zlib and on photos as tight as its level 4; where the stream grows by more than this
(smooth and flat pictures), zlib's level 6 takes its place."""
_Bytes = npt.NDArray[np.uint8]


def splice(parts: Chunks, samples: Samples, changed: npt.NDArray[np.bool_]) -> bytes | None:
    """The coded image data with `samples` in the rows that `changed` names.

    Args:
        samples: `(H, W, C)` as the file stores them (palette entries, for one), all rows.
        changed: `bool (H,)`; the other rows must equal the file's.

    Returns:
        A zlib stream, or None where rows are no byte-aligned lines of samples (interlaced files, less than 8 bits) or
        the file's own stream is not exactly one image.
    """
    if parts.interlaced or parts.depth < 8:
        return None
    coded = parts.image_data
    length = parts.width * parts.channels * parts.depth // 8
    try:
        flat = isal_zlib.decompressobj().decompress(coded, parts.height * (1 + length) + 1)
    except isal_zlib.error:  # type: ignore[misc]  # its stub declares an instance, not the class
        return None
    if len(flat) != parts.height * (1 + length):
        return None
    lines = np.frombuffer(flat, np.uint8).reshape(parts.height, 1 + length).copy()
    rows = np.flatnonzero(changed | np.concatenate([[False], changed[:-1]]))
    if lines[rows, 0].max(initial=0) > _PAETH:
        return None
    above = _as_bytes(samples[np.maximum(rows - 1, 0)])
    above[rows == 0] = 0
    step = parts.channels * parts.depth // 8
    lines[rows, 1:] = _filtered(lines[rows, 0], _as_bytes(samples[rows]), above, step)
    return _deflated(lines.data, len(coded))


def unfiltered(samples: Samples) -> bytes:
    """The zlib stream of `(H, W, C)` samples of 8 or 16 bits, no row filtered."""
    rows = _as_bytes(samples)
    return zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes(), 6)


def _deflated(lines: memoryview, source_size: int) -> bytes:
    quick = isal_zlib.compress(lines, 1)
    if len(quick) <= _GROWTH * source_size:
        return quick
    return min(quick, zlib.compress(lines, 6), key=len)


def _as_bytes(samples: Samples) -> _Bytes:
    """Rows as PNG stores them: `uint8 (rows, bytes)`, 16 bits big-endian."""
    if samples.dtype == np.uint16 and sys.byteorder == "little":
        samples = samples.byteswap()
    lines = np.ascontiguousarray(samples).reshape(len(samples), samples.shape[1] * samples.shape[2])
    return lines.view(np.uint8)


def _filtered(kinds: _Bytes, rows: _Bytes, above: _Bytes, step: int) -> _Bytes:
    """Each row by its own filter (PNG, clause 9); `step` is the bytes of a pixel."""
    left, corner = _shifted(rows, step), _shifted(above, step)
    out = rows.copy()
    for kind in np.unique(kinds):
        at = kinds == kind
        if kind == _SUB:
            out[at] -= left[at]
        elif kind == _UP:
            out[at] -= above[at]
        elif kind == _AVERAGE:
            out[at] -= ((left[at].astype(np.uint16) + above[at]) // 2).astype(np.uint8)
        elif kind == _PAETH:
            out[at] -= _paeth(left[at], above[at], corner[at])
    return out


def _shifted(rows: _Bytes, step: int) -> _Bytes:
    out = np.zeros_like(rows)
    out[:, step:] = rows[:, :-step]
    return out


def _paeth(left: _Bytes, above: _Bytes, corner: _Bytes) -> _Bytes:
    """The neighbour nearest to left + above - corner; ties in this order: left, above, corner."""
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
    )
