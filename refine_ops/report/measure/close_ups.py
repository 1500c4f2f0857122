"""Large pictures of the few items that the first screen shows: the region before, after, and its reference in the pose
that the run found."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.focus import crop_of
from refine_ops.image.read import decode
from refine_ops.image.reference import decode_reference
from refine_ops.image.region import region_mask, tight_box
from refine_ops.image.registration.frames import shift
from refine_ops.image.registration.warp import warp
from refine_ops.image.source import Source
from refine_ops.records import Box, Mask, Region, U8Image
from refine_ops.report.config import MeasureSettings
from refine_ops.report.figures import CloseUp
from refine_ops.report.measure.pair import grown
from refine_ops.report.measure.pictures import picture
from refine_ops.report.run_items import ReportedItem

logger = logging.getLogger(__name__)

_AROUND: Final = 0.35
"""Of the region's longer side: what is shown on every side of it, to judge it where it stands."""
_AROUND_PX: Final = 24
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
    look = settings.pictures
    if agreement is None or agreement.verdict == "refused" or agreement.pose is None:
        said = "reference, refused" if agreement and agreement.verdict == "refused" else "reference, as it came"
        return picture(pixels, look.close_up_px, look.quality), said
    said = "reference, fitted" if agreement.verdict == "fits" else "reference, cannot tell"
    posed = _in_pose(pixels, agreement.pose, source.rgb, mask, box)
    return picture(posed, look.close_up_px, look.quality), said


def _in_pose(reference: U8Image, pose: tuple[float, ...], rgb: U8Image, mask: Mask, box: Box) -> U8Image:
    """The reference in the pose that the run found, on `box` of the image, which is faded where it does not reach."""
    window, marked = crop_of(rgb, box), crop_of(mask, box)
    to_box = shift(-box[0], -box[1]) @ np.asarray(pose, np.float64).reshape(3, 3)
    warped, covered = warp(reference, None, to_box, (marked.shape[0], marked.shape[1]), marked)
    faded = (window * _FADED + 255 * (1 - _FADED) / 2).astype(np.uint8)
    return np.ascontiguousarray(np.where(covered[:, :, None], warped, faded))
