"""Reading a planned row: its image or pair, decoded, upright, in sRGB, and the boxes that go with them."""

from collections.abc import Callable
from dataclasses import replace

import cv2

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.data.plan import PlannedSample
from refine_ops.data.source_manifest import SourceRow
from refine_ops.errors import ItemError
from refine_ops.image.reference import decode_reference, decode_visible
from refine_ops.records import Box, U8Image


def read_pair(
    planned: PlannedSample, limits: ImageLimits, max_side_px: int | None
) -> tuple[SourceRow, U8Image, U8Image | None]:
    """The row with its boxes in pixels of the images returned, I* and I_ref (None for a single image).

    Raises:
        ItemError: the row's own problem, `source.changed`, or as the decoder.
    """
    row = planned.row
    assert row is not None, "only manifest rows are read"
    if row.problem is not None:
        raise ItemError(*row.problem)
    target, factors = _read(row.image, planned.image_sha256, decode_visible, limits, max_side_px)
    row = replace(row, box=_scaled(row.box, factors))
    if row.reference is None:
        return row, target, None
    reference, factors = _read(row.reference, planned.reference_sha256, decode_reference, limits, max_side_px)
    return replace(row, reference_box=_scaled(row.reference_box, factors)), target, reference


def _read(
    uri: str, sha256: str, decode: Callable[..., U8Image], limits: ImageLimits, max_side_px: int | None
) -> tuple[U8Image, tuple[float, float]]:
    """`uint8 (H, W, 3)`, shrunk where it is longer than `max_side_px`, and the factors applied to x and y."""
    data = storage.read(uri, limits.max_bytes)
    if storage.sha256(data) != sha256:
        raise ItemError("source.changed", f"{uri}: no longer the file that was planned; build into a new folder")
    rgb = decode(data, name=uri, limits=limits)
    height, width = rgb.shape[:2]
    if max_side_px is None or max(height, width) <= max_side_px:
        return rgb, (1.0, 1.0)
    scale = max_side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), (size[0] / width, size[1] / height)


def _scaled(box: Box | None, factors: tuple[float, float]) -> Box | None:
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return round(x0 * factors[0]), round(y0 * factors[1]), round(x1 * factors[0]), round(y1 * factors[1])
