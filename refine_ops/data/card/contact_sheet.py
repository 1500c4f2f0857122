"""The contact sheet: some samples as rows of reference, input, marked region and target, cropped to the object."""

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.image.sheet import SheetCell, SheetRow, draw_sheet, tinted
from refine_ops.records import Mask, U8Image

_CELL_PX = 160
_COLUMNS = ("reference", "input", "region", "target")


def contact_sheet(out: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with one line per sample row (`schema.SAMPLES`); the reference's column only where some row has one."""
    columns = _COLUMNS if any(row["reference"] for row in rows) else _COLUMNS[1:]
    return draw_sheet([_row(out, row, columns) for row in rows], _CELL_PX)


def _row(out: str, row: dict[str, Any], columns: Sequence[str]) -> SheetRow:
    input_, target = (_read(out, row[name]) for name in ("input", "target"))
    mask = _read(out, row["mask"])[:, :, 0] > 0
    view = _focus(row["object_box"], mask)
    cells = {
        "reference": None if row["reference"] is None else _read(out, row["reference"]),
        "input": input_[view],
        "region": tinted(input_[view], mask[view], _CELL_PX),
        "target": target[view],
    }
    kinds = ", ".join(step.get("degradation", "?") for step in json.loads(row["degradations"]))
    title = f"{row['sample_id']}  {row['split']}  {row['mask_kind']}  {kinds}"
    return SheetRow([SheetCell(cells[name], (name,)) for name in columns], title)


def _focus(box: Sequence[int], mask: Mask) -> tuple[slice, slice]:
    """The object's box and M with an eighth around, as slices of the image."""
    ys, xs = np.nonzero(mask)
    x0, y0 = min(box[0], xs.min()), min(box[1], ys.min())
    x1, y1 = max(box[2], xs.max() + 1), max(box[3], ys.max() + 1)
    dx, dy = (x1 - x0) // 8, (y1 - y0) // 8
    return slice(max(0, y0 - dy), y1 + dy), slice(max(0, x0 - dx), x1 + dx)


def _read(out: str, path: str) -> U8Image:
    image = cv2.imdecode(np.frombuffer(storage.read(storage.join(out, path)), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, f"{path} was written by this set and is no PNG"
    return np.asarray(image, np.uint8)
