"""Published files, afterwards: decoded anew and compared, sample by sample. Nothing the worker said is taken for it."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.image.source import Source, upright
from refine_ops.proof.allowed import Rules
from refine_ops.proof.metadata import not_kept
from refine_ops.records import Box, Mask


@dataclass(frozen=True, slots=True)
class Strict:
    """`changed_outside_px` counts pixels outside the allowed change that differ in any channel, `max_diff_outside` is
    in levels of the file's own depth, `where` bounds them in upright pixels, `metadata_lost` names what was not kept.
    """

    changed_outside_px: int
    max_diff_outside: int
    where: Box | None
    metadata_lost: tuple[str, ...]


def check_strict(source: Source, output: Source, allowed: Mask, rules: Rules) -> Strict:
    """Compare all stored samples (alpha and 16 bits too); images of another size or kind differ everywhere."""
    before = upright(source.native.samples, source.native.orientation)
    after = upright(output.native.samples, output.native.orientation)
    lost = _lost(source, output, rules)
    if before.shape != after.shape or before.dtype != after.dtype:
        before, after = source.rgb, output.rgb  # another kind of file: what both show is what can be compared
    if before.shape != after.shape:
        outside = ~allowed
        return Strict(int(outside.sum()), 255, _bounds(outside), lost)
    changed = _differs(before, after) & ~allowed
    count = int(cv2.countNonZero(changed.view(np.uint8)))
    if not count:
        return Strict(0, 0, None, lost)
    distance = np.abs(before[changed].astype(np.int32) - after[changed].astype(np.int32))
    return Strict(count, int(distance.max()), _bounds(changed), lost)


def _differs(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> Mask:
    """`bool (H, W)`: any channel differs; channel by channel, which is three times faster than a reduction."""
    changed: Mask = before[..., 0] != after[..., 0]
    for channel in range(1, before.shape[2]):
        changed = changed | (before[..., channel] != after[..., channel])
    return np.ascontiguousarray(changed)


def _bounds(mask: Mask) -> Box | None:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def _lost(source: Source, output: Source, rules: Rules) -> tuple[str, ...]:
    """What the output does not keep of the source's layout and metadata."""
    lost, converted = [], source.format != output.format
    if rules.same_format and converted:
        lost.append(f"format ({source.format} became {output.format})")
    if source.size != output.size:
        lost.append(f"size ({source.width} x {source.height} became {output.width} x {output.height})")
    if source.native.bits != output.native.bits:
        lost.append(f"bit depth ({source.native.bits} became {output.native.bits})")
    if source.native.model != output.native.model:
        lost.append(f"colour model ({source.native.model} became {output.native.model})")
    if source.native.alpha != output.native.alpha:
        lost.append("alpha channel")
    # A converted file is written upright, and so may be what another tool made.
    as_stored = rules.same_format or (rules.by_blocks and not converted)
    if as_stored and source.native.orientation != output.native.orientation:
        lost.append("EXIF orientation")
    return (*lost, *not_kept(source.data, output.data))
