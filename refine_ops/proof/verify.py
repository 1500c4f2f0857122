"""Proof on the very bytes to be published: decoded again, compared with the decoded source, sample by sample."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import zip_longest
from typing import Final

import cv2
import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.native import Native, Samples, expand_grey
from refine_ops.image.formats.png_pixels import LEVEL, encode_png
from refine_ops.image.formats.table import CODECS, sniff
from refine_ops.image.source import Source, as_stored, upright
from refine_ops.proof import mark
from refine_ops.proof.allowed import Rules, allowed_change
from refine_ops.proof.metadata import not_kept
from refine_ops.proof.stale import links_elsewhere, without_blanked
from refine_ops.records import Mask, PastePolicy, Verification

_ANY_SIZE: Final = ImageLimits(max_pixels=1 << 40, max_bytes=1 << 40)
_AROUND_PX: Final = 128
_STRIP_PX: Final = 1 << 16


class VerifyError(ItemError):
    """A broken promise. `picture` is a PNG: source beside output around the first offending pixel (may be empty)."""

    def __init__(self, reason: str, message: str, picture: bytes = b"") -> None:
        super().__init__(reason, message)
        self.picture = picture


@dataclass(frozen=True, slots=True)
class _Difference:
    changed_px: int
    outside_px: int
    max_outside: int
    first_outside: tuple[int, int] | None
    """(row, column) of the first offender."""


def verify(
    source: Source,
    data: bytes,
    regions: Iterable[tuple[Mask, PastePolicy]],
    rules: Rules,
    *,
    allow_unchanged: bool = False,
    marked: bool = False,
    signed: bool = False,
) -> Verification:
    """Compare the bytes to publish with the source: 0 changed samples outside the allowed change, or no publication.

    They are not decoded by the library that encoded: Pillow for JPEG (pyjpegio) and 8-bit PNG, OpenCV for 16-bit PNG
    (both our own rows), WebP (Pillow) and TIFF (our own strips). Where a PNG is coded as a whole (interlaced, palettes
    under 8 bits) one library may be both.

    Args:
        data: The bytes to publish.
        regions, rules: What was asked for, as `allowed_change` takes it.
        marked: Its XMP must say that a model made a part of it, which is then the one difference metadata may have.
        signed: It has Content Credentials of its own, which are set aside; whether they are valid is not asked here.

    Raises:
        VerifyError: `verify.unreadable`, `verify.layout_changed`, `verify.background_changed`, `verify.alpha_changed`,
            `verify.metadata_changed`, `verify.mark_missing`, `verify.credential_missing`, `verify.unchanged_region`.
    """
    file, published, decoder = _decoded(source, data)
    converted = file.format != source.format
    allowed = allowed_change(regions, source.size, source.data, data, rules)
    before, after = _comparable(source, converted, published.samples), published.samples
    if before.shape != after.shape or before.dtype != after.dtype:
        raise VerifyError(
            "verify.layout_changed",
            f"{source.name}: {before.shape} {before.dtype} became {after.shape} {after.dtype}",
        )
    where = allowed.where if converted else as_stored(allowed.where, source.native.orientation)
    found = _difference(before, after, where)
    if found.first_outside is not None:
        raise VerifyError(
            "verify.background_changed",
            f"{source.name}: {found.outside_px} px outside the allowed change differ, by up to {found.max_outside}; "
            "the result was not published, report this with the evidence",
            _picture_around(source, before, after, found.first_outside),
        )
    if source.native.alpha and not np.array_equal(before[..., -1], after[..., -1]):
        raise VerifyError("verify.alpha_changed", f"{source.name}: the alpha channel changed")
    metadata_equal = _check_metadata(source, file, published, marked, signed)
    if not found.changed_px and not allow_unchanged:
        raise VerifyError(
            "verify.unchanged_region",
            f"{source.name}: no pixel of any region changed; set write.allow_unchanged if that may be",
        )
    return Verification(
        decoder=decoder,
        allowed_px=int(np.count_nonzero(allowed.where)),
        changed_px=found.changed_px,
        changed_outside_px=found.outside_px,
        max_diff_outside=found.max_outside,
        touched_mcus=allowed.mcus,
        metadata_equal=metadata_equal,
        credentials_removed=not signed and (bool(source.file.credentials()) or links_elsewhere(source.file.xmp())),
        marked=marked,
        signed=signed,
    )


def _decoded(source: Source, data: bytes) -> tuple[ParsedFile, Native, str]:
    """The published bytes taken apart anew, what an independent decoder makes of them, and its name."""
    kind = sniff(data)
    try:
        if kind is None:
            raise ValueError("it is no image")
        file = CODECS[kind].parse(data, f"{source.name} (published)")
        return file, *file.decode_independently(_ANY_SIZE)
    except (ItemError, OSError, SyntaxError, ValueError, cv2.error) as error:
        raise VerifyError("verify.unreadable", f"{source.name}: the encoded file cannot be read: {error}") from error


def _comparable(source: Source, converted: bool, published: Samples) -> Samples:
    """The decoded source in the orientation and layout of the published samples: what was converted lies upright."""
    native = source.native
    if not converted:
        return native.samples
    turned = upright(native.samples, native.orientation)
    return expand_grey(turned) if published.shape[2] > turned.shape[2] else turned


def _difference(before: Samples, after: Samples, allowed: Mask) -> _Difference:
    """Row strips, so that an image-sized mask of differences is never held; equal strips cost one comparison."""
    changed = outside = largest = 0
    first: tuple[int, int] | None = None
    step = max(1, _STRIP_PX // before.shape[1])
    for top in range(0, before.shape[0], step):
        rows = slice(top, top + step)
        if np.array_equal(before[rows], after[rows]):
            continue
        # A reduction over so short an axis is ten times slower than the operation between its slices.
        differs = reduce(np.logical_or, np.moveaxis(before[rows] != after[rows], 2, 0))
        changed += int(np.count_nonzero(differs))
        offends = differs & ~allowed[rows]
        if offends.any():
            ys, xs = np.nonzero(offends)
            outside += len(ys)
            first = first or (int(ys[0]) + top, int(xs[0]))
            gap = after[rows][ys, xs].astype(np.int64) - before[rows][ys, xs]
            largest = max(largest, int(np.abs(gap).max()))
    return _Difference(changed, outside, largest, first)


def _check_metadata(source: Source, file: ParsedFile, published: Native, marked: bool, signed: bool) -> bool:
    """Whether all metadata was kept, Content Credentials aside: the source's sign other pixels, and may not be left.

    What another format has no place for may be lost, but never the profile.
    """
    own = file.credentials()
    if signed and not own:
        raise VerifyError("verify.credential_missing", f"{source.name}: no Content Credentials were written")
    xmp, new_xmp = source.file.xmp(), file.xmp()
    if (own and not signed) or links_elsewhere(new_xmp):
        raise VerifyError(
            "verify.metadata_changed", f"{source.name}: Content Credentials were left in a file they no longer fit"
        )
    if marked and not mark.says_so(new_xmp):
        raise VerifyError("verify.mark_missing", f"{source.name}: no XMP says that a model made a part of the picture")
    if file.format != source.format:
        if published.icc != source.native.icc:
            raise VerifyError("verify.metadata_changed", f"{source.name}: the ICC profile was not carried over")
        return not not_kept(source.data, file.data)
    before, after = source.file.kept_metadata(), file.kept_metadata()
    if marked and before != after:
        if xmp is not None and new_xmp is not None:
            xmp = without_blanked(xmp, new_xmp)
        if not mark.only_marked(xmp, new_xmp) or not mark.same_but_for_xmp(before, after):
            raise VerifyError(
                "verify.metadata_changed", f"{source.name}: more than the mark differs from the source's metadata"
            )
        return True
    if before != after:
        names = [a[0] for a, b in zip_longest(before, after, fillvalue=("", b"")) if a != b]
        raise VerifyError("verify.metadata_changed", f"{source.name}: segments {names[:8]} differ from the source's")
    return True


def _picture_around(source: Source, before: Samples, after: Samples, at: tuple[int, int]) -> bytes:
    """Source, output and their difference (stretched to full contrast) side by side around `at`, as PNG."""
    rows = slice(max(0, at[0] - _AROUND_PX), at[0] + _AROUND_PX)
    columns = slice(max(0, at[1] - _AROUND_PX), at[1] + _AROUND_PX)
    old, new = (np.ascontiguousarray(a[rows, columns]) for a in (before, after))
    gap = np.abs(new.astype(np.int32) - old.astype(np.int32)).max(axis=2)
    stretched = (gap / max(float(gap.max()), 1.0) * 255).astype(np.uint8)
    layout = source.native if old.shape[2] == source.native.samples.shape[2] else replace(source.native, model="rgb")
    panels = [colour.render(a, layout, source.matte) for a in (old, new)]
    return encode_png(np.concatenate([*panels, np.repeat(stretched[:, :, None], 3, axis=2)], axis=1), LEVEL)
