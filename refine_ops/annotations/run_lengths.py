"""Masks as run lengths: COCO's (plain and compressed), CVAT's, and Label Studio's, which is none of these.

All are sequences of runs; they differ in the order of pixels, in what the first run is, and in how numbers are written.
They are read here, not by pycocotools: a mask file of a stranger is decoded by code that checks every length before it
allocates, and no C library sees it. pycocotools is the second reader in the tests.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from refine_ops.errors import ItemError
from refine_ops.records import Mask

PixelOrder = Literal["C", "F"]
Runs = npt.NDArray[np.int64]
"""Lengths in turn of what is not marked and what is, beginning with what is not."""
_MOST_RUNS: Final = 1 << 26
_CHARS: Final = 5
"""Bits of a number that one character of compressed COCO RLE carries."""
_HALF: Final = 128
_SIZE_BITS: Final = (3, 4, 8, 16)
"""How a run's length may be written in Label Studio's RLE; the header says which four widths a file uses."""


def runs_of(counts: Any, total: int, name: str) -> Runs:
    """A list of run lengths, checked.

    Raises:
        ItemError: `rle.invalid`.
    """
    if not isinstance(counts, Sequence) or isinstance(counts, str) or len(counts) > _MOST_RUNS:
        raise ItemError("rle.invalid", f"{name}: expected a list of run lengths")
    if any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c <= total for c in counts):
        raise ItemError("rle.invalid", f"{name}: run lengths are whole numbers from 0 to {total:,}")
    return _checked(np.array(counts, np.int64), total, name)


def _checked(runs: Runs, total: int, name: str) -> Runs:
    if (runs < 0).any() or int(runs.sum()) != total:
        raise ItemError("rle.invalid", f"{name}: the runs cover {int(runs.sum()):,} pixels, expected {total:,}")
    return runs


def uncompressed(text: str, total: int, name: str) -> Runs:
    """COCO's compressed run lengths: base 32, five bits per character from `0` on, the least first, the sixth bit says
    that more follow; from the fourth run on each is the difference to the one before the last.

    Raises:
        ItemError: `rle.invalid`.
    """
    digits = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if len(digits) > _MOST_RUNS or not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ItemError("rle.invalid", f"{name}: not COCO's compressed run lengths")
    ends = np.flatnonzero((digits & 32) == 0)
    begins = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(len(digits)) - np.repeat(begins, ends - begins + 1)
    if position.max() > 9:
        raise ItemError("rle.invalid", f"{name}: a run length of more than 50 bits")
    values = np.add.reduceat((digits & 31) << (_CHARS * position), begins)
    negative = (digits[ends] & 16) != 0
    values[negative] -= 1 << (_CHARS * (position[ends][negative] + 1))
    if np.abs(values).max() > total:
        raise ItemError("rle.invalid", f"{name}: a run longer than the image")
    values[1::2] = _summed(values[1::2], skip=0)
    values[0::2] = _summed(values[0::2], skip=1)
    return _checked(values, total, name)


def _summed(values: Runs, skip: int) -> Runs:
    """Differences as what they add up to; the first `skip` stand for themselves, and so does the one after them."""
    return np.concatenate([values[:skip], np.cumsum(values[skip:])])


def compressed(runs: Runs) -> str:
    """The inverse of `uncompressed`."""
    written = bytearray()
    for index, run in enumerate(runs.tolist()):
        value = run - int(runs[index - 2]) if index > 2 else run
        while True:
            digit, value = value & 31, value >> 5
            last = value == (-1 if digit & 16 else 0)
            written.append(48 + (digit if last else digit | 32))
            if last:
                break
    return written.decode("ascii")


def painted(runs: Runs, size: tuple[int, int], order: PixelOrder) -> Mask:
    """The mask, `bool (H, W)`; `order` is F where pixels go down the columns (COCO), C along the rows (CVAT)."""
    width, height = size
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape((height, width), order=order))


def runs_in(mask: Mask, order: PixelOrder) -> Runs:
    """The inverse of `painted`."""
    flat = mask.reshape(-1, order=order)
    cuts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], cuts, [len(flat)]]))
    return np.concatenate([[0], runs]) if flat[0] else runs


def brush_mask(data: Any, size: tuple[int, int], name: str) -> Mask:
    """Label Studio's brush: run lengths of the bytes of an RGBA picture, of which alpha is the stroke, marked from half
    on. The stream is bits, the highest of a byte first:

        number of bytes (32), bits per value - 1 (5), four widths - 1 (4 each); then until all bytes are there
        is it a run (1), which width (2), length - 1 (that width), one value or as many as it is long

    Raises:
        ItemError: `rle.invalid`.
    """
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        raise ItemError("rle.invalid", f"{name}: expected a list of bytes")
    try:
        bits = _Bits(bytes(data))
    except (TypeError, ValueError) as e:
        raise ItemError("rle.invalid", f"{name}: expected a list of whole numbers from 0 to 255") from e
    width, height = size
    total = width * height * 4
    try:
        given, value_bits = bits.take(32), bits.take(5) + 1
        widths = [bits.take(4) + 1 for _ in range(4)]
        if given != total or value_bits != 8:
            raise ItemError(
                "rle.invalid",
                f"{name}: {given:,} values of {value_bits} bits; a brush on {width} x {height} px has {total:,} of 8",
            )
        out, at = np.zeros(total, np.uint8), 0
        while at < total:
            is_run = bits.take(1)
            length = bits.take(widths[bits.take(2)]) + 1
            if at + length > total:
                raise ItemError("rle.invalid", f"{name}: the runs cover more than the image")
            if is_run:
                out[at : at + length] = bits.take(8)
            else:
                out[at : at + length] = np.frombuffer(bits.take_bytes(length), np.uint8)
            at += length
    except EOFError as e:
        raise ItemError("rle.invalid", f"{name}: it ends before the image does") from e
    return np.ascontiguousarray(out.reshape(height, width, 4)[..., 3] >= _HALF)


class _Bits:
    """Bits of some bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 0, len(data) * 8

    def take(self, count: int) -> int:
        stop = self._at + count
        if stop > self._end:
            raise EOFError
        first, last = self._at >> 3, (stop + 7) >> 3
        found = int.from_bytes(self._data[first:last], "big") >> (last * 8 - stop)
        self._at = stop
        return found & ((1 << count) - 1)

    def take_bytes(self, count: int) -> bytes:
        return self.take(count * 8).to_bytes(count, "big")


def brush_data(mask: Mask) -> list[int]:
    """The inverse of `brush_mask`: marked pixels are opaque white, the others clear black."""
    total = mask.size * 4
    written = [f"{total:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in _SIZE_BITS)]
    value = 0
    for run in runs_in(mask, "C").tolist():
        left = run * 4
        while left:
            length = min(left, 1 << _SIZE_BITS[-1])
            which = next(i for i, bits in enumerate(_SIZE_BITS) if length <= 1 << bits)
            written.append(f"1{which:02b}{length - 1:0{_SIZE_BITS[which]}b}{value:08b}")
            left -= length
        value ^= 255
    text = "".join(written)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
