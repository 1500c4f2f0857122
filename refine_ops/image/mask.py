"""A mask file as the marked pixels, by one written rule; what the rule cannot tell is refused, never guessed.

**Which layer.** Without transparency: the colours. Where alpha varies and all that is visible has one colour (a brush
on an empty layer): alpha. Where what is visible is black, grey or white: alpha times that. Where it is a picture (a
photo with the place erased), alpha does not say which side is meant: `invert` marks the transparent one, `level` the
opaque one, without either the file is refused.

**Which pixels** of that layer:
- a file of two values, one of them 0 (0 and 1, 0 and 255, black and red): those that are not 0;
- black and white, with edges or smooth slopes of grey between (a soft brush): those from half of white on, which is 128
  of 255 and 32,768 of 65,535 (a 16-bit file with nothing over 255 counts to 255);
- one hue on black likewise, by its brightest channel;
- with `level`: those from that value on, whatever the file looks like (counted to 255, or 65,535 in 16 bits);
- with `label`: those of that class in a label image, grey value or palette entry.

Refused as ambiguous: coloured pictures; several classes; flat or textured grey between black and white; less than half
of the pixels black or white; nothing that reaches half of white.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import colour
from refine_ops.image.formats.native import Native, Samples
from refine_ops.image.read import labels_of, look
from refine_ops.image.source import upright
from refine_ops.records import PLAIN_READING, Mask, MaskReading

_NEAR: Final = 16
"""Black and white end a sixteenth of the range away: JPEG rings around edges by less."""
_STRAY: Final = 0.001
"""Share of pixels that may break a rule of colour: JPEG's chroma at an edge."""
_VISIBLE: Final = 8
"""From an eighth of full alpha on a colour can be told; below, canvas exports round it off."""
_PLAIN: Final = 0.5
"""At least this share is black or white."""
_SEEN: Final = 0.01
"""Less than this share of the pixels is an edge, whatever its values."""
_FLAT: Final = 0.1
"""A slope spreads over many values: none has more than this share of the grey."""
_PATCH_PX: Final = 256
"""Fewer grey pixels than a patch of 16 x 16 say nothing of texture: the tips of three faint dots are 80 of them."""
_ROUGH: Final = 0.1
_ROUGH_LEVELS: Final = 6 / 255
_ROUGH_CHANGE: Final = 2.0
"""Texture: more than a tenth of the grey bends (4-neighbour Laplacian) by more than 6 levels, and that bend changes by
more than twice itself. Of 1,500 masks of up to 39 Gaussian dots (sigma 1 to 12 px) none is refused for it, of 1,500
grey photo crops on black or white 117 pass (cells, the moon, skies); by the bend alone 285 and 107
(`tests/bench/mask_texture.py`)."""
_FEW: Final = 32
"""A label image has few values, a soft edge has many."""
_LISTED: Final = 6
_STRIP_PX: Final = 1 << 20


def decode_mask(
    data: bytes,
    *,
    name: str,
    size: tuple[int, int],
    limits: ImageLimits,
    reading: MaskReading = PLAIN_READING,
) -> Mask:
    """A mask file as `bool (H, W)`, upright, never empty, by the rule above.

    Args:
        size: (width, height) that the upright mask must have; masks are never resized.

    Raises:
        ItemError: `mask.size`, `mask.empty`, `mask.ambiguous`, and as `read.look` with `mask.` for `image.`.
    """
    try:
        native = look(data, name, limits, several=False)
        numbers = labels_of(data, name, limits, native) if reading.label is not None else None
    except ItemError as error:
        raise ItemError(error.reason.replace("image.", "mask."), str(error)) from error
    turned = upright(native.samples, native.orientation)
    height, width = turned.shape[:2]
    if (width, height) != size:
        raise ItemError(
            "mask.size", f"{name}: the mask is {width} x {height}, the image {size[0]} x {size[1]}; masks must match"
        )
    if reading.label is not None:
        mask = _of_class(numbers, reading.label, name)
        mask = np.ascontiguousarray(upright(mask, native.orientation))
    else:
        layer = _layer(turned, native, reading, name)
        mask = layer.level >= reading.level if reading.level is not None else _black_and_white(layer, name)
        if not mask.any():
            seen = f"no pixel from {reading.level or layer.half} on: {layer.kind} {_seen(_counts(layer.level))}"
            raise ItemError("mask.empty", f"{name}: nothing is marked, {seen}")
    if reading.invert:
        mask = ~mask
        if not mask.any():
            raise ItemError("mask.empty", f"{name}: nothing is marked: mask_invert is set and everything is marked")
    return mask


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """What carries the mark: `level` is `(H, W)`, 0 to `full`; `kind` is what messages call it."""

    level: Samples
    full: int
    kind: str

    @property
    def half(self) -> int:
        return self.full // 2 + 1


def _layer(samples: Samples, native: Native, reading: MaskReading, name: str) -> _Layer:
    colours, alpha = (samples[..., :-1], samples[..., -1]) if native.alpha else (samples, None)
    if native.model == "cmyk":
        colours = colour.profile("cmyk", None).to_srgb(np.ascontiguousarray(colours))
    full = int(np.iinfo(colours.dtype).max)
    told = reading.level is not None or reading.invert
    brightest = np.asarray(colours.max(axis=2)) if colours.shape[2] == 1 else _brightest(colours)
    if alpha is not None and int(alpha.min()) < full:
        visible = alpha >= full // _VISIBLE
        if not visible.any() or _one_colour(colours, visible, full):
            return _Layer(alpha, full, "alpha")
        if _grey(colours, visible, full):
            mixed = (brightest.astype(np.uint32) * alpha + full // 2) // full
            return _Layer(mixed.astype(samples.dtype), full, "brightness times alpha")
        if told:
            return _Layer(alpha, full, "alpha")
        raise _ambiguous(
            name,
            f"it is a picture, {_share(alpha < full)} of it transparent, and does not say which side is meant",
            "set mask_invert to mark what is transparent, or mask_level to mark what is opaque",
        )
    everywhere = np.ones(brightest.shape, np.bool_)
    if _grey(colours, everywhere, full) or _one_hue(colours, brightest, full) or reading.level is not None:
        return _Layer(brightest, full, "brightness")
    raise _ambiguous(
        name,
        f"it has colours, so it is a picture or a label image; {_share(brightest > full // 2)} of it would be marked "
        "from half of white on",
        "give a black-and-white mask, the mask_class of a palette or grey label image, or a mask_level",
    )


def _black_and_white(layer: _Layer, name: str) -> Mask:
    level, full = layer.level, layer.full
    counts = _counts(level)
    values = np.flatnonzero(counts)
    if full > 255 and values[-1] <= 255:
        full = 255
    if values.tolist() == [0] or (len(values) == 2 and values[0] == 0) or values.tolist() in ([1], [full]):
        return level > 0
    if values[-1] <= full // 2:
        problem = "nothing in it reaches half of white"
    else:
        problem = _not_black_and_white(level, counts[: full + 1], full)
    if problem:
        raise _ambiguous(
            name,
            f"{problem}: {layer.kind} {_seen(counts)}; {_share(level > full // 2)} of it would be marked from "
            f"{full // 2 + 1} on",
            "give a black-and-white mask, the mask_class of a label image, or the mask_level to mark from",
        )
    return level > full // 2


def _not_black_and_white(level: Samples, counts: npt.NDArray[np.int64], full: int) -> str:
    """Why values up to `full` are no black and white with edges and smooth slopes between; empty where they are."""
    total, edge = level.size, (full + 1) // _NEAR
    between = counts[edge : full - edge + 1]
    if between.sum() > (1 - _PLAIN) * total:
        return f"{between.sum() / total:.0%} of it is neither black nor white"
    dark = counts[1:edge]
    if counts[0] > _SEEN * total and dark.max() > _SEEN * total and np.count_nonzero(counts) <= _FEW:
        return f"value {dark.argmax() + 1} looks like a class of its own"
    if between.max() > max(_FLAT * between.sum(), _SEEN * total):
        return f"a flat grey of {between.argmax() + edge} lies between black and white"
    if between.sum() > _SEEN * total and _textured(level, edge, full):
        return "the grey between black and white has texture, as a photo's"
    return ""


def _textured(level: Samples, edge: int, full: int) -> bool:
    """Whether grey that touches neither black nor white is rough: it bends, and the bend changes from pixel to pixel.

    A brush bends too, a small soft dot by more than a photo does, but slowly: for a Gaussian of sigma px the bend's own
    Laplacian is at most 4 / sigma^2 of the bend.
    """
    plain = ((level < edge) | (level > full - edge)).astype(np.uint8)
    inner = cv2.dilate(plain, np.ones((5, 5), np.uint8)) == 0
    if np.count_nonzero(inner) <= max(_SEEN * level.size, _PATCH_PX):
        return False
    bend = cv2.Laplacian(level.astype(np.float32), cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    change = cv2.Laplacian(bend, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    rough = (np.abs(bend) > _ROUGH_LEVELS * full) & (np.abs(change) > _ROUGH_CHANGE * np.abs(bend))
    return bool(rough[inner].mean() > _ROUGH)


def _of_class(numbers: Samples | None, label: int, name: str) -> Mask:
    if numbers is None:
        raise _ambiguous(name, "it has colours, which are no class numbers", "give a grey or palette file")
    mask: Mask = numbers == label
    if not mask.any():
        seen = f"no pixel is of class {label}: the file {_seen(_counts(numbers))}"
        raise ItemError("mask.empty", f"{name}: nothing is marked, {seen}")
    return mask


def _brightest(colours: Samples) -> Samples:
    # A reduction over so short an axis is ten times slower than the operation between its slices.
    return np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])


def _grey(colours: Samples, where: Mask, full: int) -> bool:
    if colours.shape[2] == 1:
        return True
    darkest = np.minimum(np.minimum(colours[..., 0], colours[..., 1]), colours[..., 2])
    return bool((((_brightest(colours) - darkest) > full // _NEAR) & where).sum() <= _STRAY * where.sum())


def _one_colour(colours: Samples, where: Mask, full: int) -> bool:
    seen = colours[where]
    return bool((seen.max(axis=0).astype(np.int64) - seen.min(axis=0) <= full // _NEAR).all())


def _one_hue(colours: Samples, brightest: Samples, full: int) -> bool:
    """Whether every pixel is black or a shade of one colour."""
    lit = brightest > int(brightest.max()) // 2
    hue = [float(colours[..., c][lit].mean()) if lit.any() else 1.0 for c in range(3)]
    off = np.zeros(brightest.shape, np.bool_)
    for channel, share in enumerate(hue):
        expected = brightest.astype(np.float32) * np.float32(share / max(hue))
        off |= np.abs(expected - colours[..., channel]) > full // _NEAR
    return bool(off.mean() <= _STRAY)


def _counts(level: Samples) -> npt.NDArray[np.int64]:
    """How often each value occurs, 0 to the largest the type holds."""
    counts = np.zeros(int(np.iinfo(level.dtype).max) + 1, np.int64)
    for rows in np.array_split(level, -(-level.size // _STRIP_PX)):  # bincount widens what it counts to 8 bytes
        counts += np.bincount(rows.ravel(), minlength=len(counts))
    return counts


def _ambiguous(name: str, seen: str, remedy: str) -> ItemError:
    return ItemError("mask.ambiguous", f"{name}: no black-and-white mask: {seen}; {remedy}")


def _share(mask: Mask) -> str:
    return f"{mask.mean():.1%}"


def _seen(counts: npt.NDArray[np.int64]) -> str:
    """The commonest values with their shares, or the range where there are many."""
    values = np.flatnonzero(counts)
    if len(values) > _FEW:
        return f"runs from {values[0]} to {values[-1]} in {len(values)} values"
    commonest = sorted(values, key=lambda v: (-counts[v], v))[:_LISTED]
    listed = ", ".join(f"{v} ({counts[v] / counts.sum():.1%})" for v in commonest)
    return f"has {'only ' if len(values) <= _LISTED else ''}the values {listed}"
