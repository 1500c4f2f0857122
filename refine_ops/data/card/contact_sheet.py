"""The contact sheet: some samples as rows of reference, input, marked region and target, cropped to the object."""

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import Mask, U8Image

_CELL_PX = 160
_GAP_PX = 6
_CAPTION_PX = 16
_PAPER = 255
_INK = (40, 40, 40)
_MARK_RGB = np.array((255, 0, 160), np.float32)
_COLUMNS = ("reference", "input", "region", "target")


def contact_sheet(out: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with one line per sample row (`schema.SAMPLES`); the reference's column only where some row has one."""
    columns = _COLUMNS if any(row["reference"] for row in rows) else _COLUMNS[1:]
    lines = [_line(out, row, columns) for row in rows]
    width = len(columns) * (_CELL_PX + _GAP_PX) + _GAP_PX
    head = np.full((_CAPTION_PX + _GAP_PX, width, 3), _PAPER, np.uint8)
    for i, name in enumerate(columns):
        _write(head, name, _GAP_PX + i * (_CELL_PX + _GAP_PX), _CAPTION_PX)
    return encode_png(np.concatenate([head, *lines]), level=1)


def _line(out: str, row: dict[str, Any], columns: Sequence[str]) -> U8Image:
    input_, target = (_read(out, row[name]) for name in ("input", "target"))
    mask = _read(out, row["mask"])[:, :, 0] > 0
    view = _focus(row["object_box"], mask)
    reference = None if row["reference"] is None else _read(out, row["reference"])
    cells = dict(zip(_COLUMNS, (reference, input_[view], _marked(input_, mask)[view], target[view]), strict=True))
    width = len(columns) * (_CELL_PX + _GAP_PX) + _GAP_PX
    line = np.full((_CELL_PX + _CAPTION_PX + _GAP_PX, width, 3), _PAPER, np.uint8)
    for i, name in enumerate(columns):
        if (cell := cells[name]) is not None:
            fitted = _fit(cell)
            x = _GAP_PX + i * (_CELL_PX + _GAP_PX)
            line[: fitted.shape[0], x : x + fitted.shape[1]] = fitted
    kinds = ", ".join(step.get("degradation", "?") for step in json.loads(row["degradations"]))
    _write(line, f"{row['sample_id']}  {row['split']}  {row['mask_kind']}  {kinds}", _GAP_PX, _CELL_PX + 12)
    return line


def _focus(box: Sequence[int], mask: Mask) -> tuple[slice, slice]:
    """The object's box and M with an eighth around, as slices of the image."""
    ys, xs = np.nonzero(mask)
    x0, y0 = min(box[0], xs.min()), min(box[1], ys.min())
    x1, y1 = max(box[2], xs.max() + 1), max(box[3], ys.max() + 1)
    dx, dy = (x1 - x0) // 8, (y1 - y0) // 8
    return slice(max(0, y0 - dy), y1 + dy), slice(max(0, x0 - dx), x1 + dx)


def _marked(image: U8Image, mask: Mask) -> U8Image:
    """M's outline in a colour that photographs rarely have."""
    side = 2 * max(1, max(mask.shape) // 300) + 1
    edge = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool) & ~mask
    return np.where(edge[:, :, None], _MARK_RGB, image).astype(np.uint8)


def _fit(image: U8Image) -> U8Image:
    scale = _CELL_PX / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=kernel)  # type: ignore[no-any-return]


def _read(out: str, path: str) -> U8Image:
    image = cv2.imdecode(np.frombuffer(storage.read(storage.join(out, path)), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, f"{path} was written by this set and is no PNG"
    return np.asarray(image, np.uint8)


def _write(image: U8Image, text: str, x: int, y: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, _INK, 1, cv2.LINE_AA)
