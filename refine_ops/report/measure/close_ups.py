"""Large pictures of the few items that the first screen shows: the region before, after, and its reference in the
region's pose, registered again from the inputs."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.focus import crop_of
from refine_ops.image.read import decode
from refine_ops.image.reference import decode_reference
from refine_ops.image.region import region_mask, tight_box
from refine_ops.image.registration.register import register
from refine_ops.image.source import Source
from refine_ops.records import Agreement, Box, Mask, Region, U8Image
from refine_ops.report.config import MeasureSettings
from refine_ops.report.figures import CloseUp
from refine_ops.report.measure.pair import grown
from refine_ops.report.measure.pictures import picture
from refine_ops.report.run_items import ReportedItem

logger = logging.getLogger(__name__)

_AROUND: Final = 0.35
"""Of the region's longer side: what is shown on every side of it, to judge it where it stands."""
_AROUND_PX: Final = 24
_VIEW_PX: Final = 1024
_FADED: Final = 0.3
"""Share of the picture that is left where the reference does not reach."""


def close_ups(
    items: Iterable[ReportedItem], regions: Mapping[tuple[str, str], str], settings: MeasureSettings
) -> Iterator[CloseUp]:
    """Cut them; what cannot be read any more is left out with a warning.

    Args:
        regions: Which region of an item is shown, by run and item id; an empty one is the whole
            picture.
    """
    for item in items:
        try:
            yield _close_up(item, regions[(item.run, item.item_id)], settings)
        except ItemError as e:
            logger.warning("no close-up of item %r: %s", item.item_id, e)


def _close_up(item: ReportedItem, region_id: str, settings: MeasureSettings) -> CloseUp:
    limits = settings.limits
    source = _open(item.image, limits)
    shown = item.candidate if region_id in item.held and item.candidate else item.output
    output = _open(shown, limits) if shown else None
    region = next((r for r in item.regions if r.region_id == region_id), None)
    if region is None:
        return CloseUp(
            item.run,
            item.item_id,
            _shown(source.rgb, (0, 0, *source.size), settings),
            _shown(output.rgb, (0, 0, *output.size), settings) if output else b"",
        )
    mask = region_mask(
        region, source.size, storage.read(region.mask, limits.max_bytes) if region.mask else None, limits
    )
    tight = tight_box(mask)
    around = max(_AROUND_PX, round(_AROUND * max(tight[2] - tight[0], tight[3] - tight[1])))
    box = grown(tight, around, source.size)
    comparable = output is not None and output.size == source.size
    reference, said = _reference(item, region, source, mask, box, settings)
    return CloseUp(
        item.run,
        item.item_id,
        _shown(source.rgb, box, settings),
        _shown(output.rgb, box, settings) if comparable and output else b"",
        reference,
        said,
        "what came out, not published" if shown and shown == item.candidate else "after",
    )


def _open(uri: str, limits: ImageLimits) -> Source:
    return decode(storage.read(uri, limits.max_bytes), name=uri, limits=limits)


def _shown(rgb: U8Image, box: Box, settings: MeasureSettings) -> bytes:
    look = settings.pictures
    return picture(np.ascontiguousarray(crop_of(rgb, box)), look.close_up_px, look.quality)


def _reference(
    item: ReportedItem, region: Region, source: Source, mask: Mask, box: Box, settings: MeasureSettings
) -> tuple[bytes, str]:
    """The reference that was taken, in the region's pose where it has one, else as it came; and what that picture is.

    A reference that is gone or unreadable by now costs its picture only.
    """
    names = region.all_references
    if not names:
        return b"", ""
    agreement = item.agreements.get(region.region_id)
    uri = agreement.reference if agreement and agreement.reference in names else names[0]
    try:
        data = storage.read(uri, settings.limits.max_bytes)
        pixels = decode_reference(data, name=uri, limits=settings.limits)
    except ItemError as e:
        logger.warning("no picture of a reference of item %r: %s", item.item_id, e)
        return b"", ""
    posed = _in_pose(item, region, agreement, pixels, source.rgb, mask)
    look = settings.pictures
    if posed is None:
        said = "reference, as it came" if agreement is None else "reference, refused"
        return picture(pixels, look.close_up_px, look.quality), said
    crop = item.crops[region.region_id]
    canvas = source.rgb.copy()
    crop_of(canvas, crop)[:] = posed
    said = "reference, fitted" if agreement and agreement.verdict == "fits" else "reference, cannot tell"
    return picture(np.ascontiguousarray(crop_of(canvas, box)), look.close_up_px, look.quality), said


def _in_pose(
    item: ReportedItem, region: Region, agreement: Agreement | None, pixels: U8Image, rgb: U8Image, mask: Mask
) -> U8Image | None:
    """The reference on the region's crop, `uint8` at its size, the picture faded where it does not reach; None where it
    was refused or not registered.

    It is registered on the crop as the source has it. The run saw what its earlier regions left, and padding at the
    image's border, so this is a picture of the pose; the verdict is the run's own.
    """
    crop = item.crops.get(region.region_id)
    if agreement is None or agreement.verdict == "refused" or crop is None:
        return None
    window, marked = crop_of(rgb, crop), crop_of(mask, crop)
    height, width = marked.shape
    wanted = item.model_sizes.get(region.region_id, (width, height))
    scale = min(wanted[0] / width, wanted[1] / height, _VIEW_PX / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    view = cv2.resize(window, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    within = cv2.resize(marked.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    if not within.any():
        return None
    found = register(pixels, np.asarray(view, np.uint8), within)
    if found.pixels is None or found.covered is None:
        return None
    faded = (view * _FADED + 255 * (1 - _FADED) / 2).astype(np.uint8)
    posed = np.where(found.covered[:, :, None], found.pixels, faded)
    return np.asarray(cv2.resize(posed, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
