"""Palettes of PNG files: entries looked up, and edited pixels given the nearest entries."""

from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops.errors import ItemError
from refine_ops.image.formats.native import Samples
from refine_ops.image.formats.png import Chunks, image_only

_LIMIT: Final = 8.0
_CHUNK: Final = 4096
Entries = npt.NDArray[np.uint8]
"""Palette entries, `uint8 (H, W)`."""


def indices(parts: Chunks) -> Entries:
    """The entries of a palette PNG's pixels, a copy."""
    with Image.open(BytesIO(image_only(parts)), formats=["PNG"]) as image:
        return np.array(image)


def palette(parts: Chunks) -> npt.NDArray[np.uint8]:
    """`uint8 (N, 4)`: the palette's RGB with `tRNS` alpha (255 where absent)."""
    rgb = np.frombuffer(parts.first(b"PLTE") or b"", np.uint8)
    rgb = rgb[: len(rgb) // 3 * 3].reshape(-1, 3)
    alpha = np.full((len(rgb), 1), 255, np.uint8)
    given = np.frombuffer(parts.first(b"tRNS") or b"", np.uint8)[: len(rgb)]
    alpha[: len(given), 0] = given
    return np.concatenate([rgb, alpha], axis=1)


def nearest_entries(parts: Chunks, before: Samples, after: Samples, name: str) -> Entries:
    """Edited pixels become the nearest entry of the file's own palette with their alpha; the others keep theirs.

    Raises:
        ItemError: `palette.too_coarse` where the nearest entries are off by more than 8/255 on average.
    """
    entries, table = indices(parts), palette(parts).astype(np.int32)
    edited = (after != before).any(axis=2)
    if not edited.any():
        return entries
    wanted = after[edited].astype(np.int32)
    if wanted.shape[1] == 3:
        wanted = np.concatenate([wanted, np.full((len(wanted), 1), 255, np.int32)], axis=1)
    colours, inverse = np.unique(wanted, axis=0, return_inverse=True)
    nearest = np.empty(len(colours), np.uint8)
    for start in range(0, len(colours), _CHUNK):
        off = colours[start : start + _CHUNK, None, :] - table[None]
        # Another alpha weighs more than any colour: transparency is never edited.
        distance = (off[..., :3] ** 2).sum(axis=2) + (off[..., 3] != 0) * (1 << 20)
        nearest[start : start + _CHUNK] = distance.argmin(axis=1)
    error = float(np.abs(table[nearest[inverse.ravel()]] - wanted)[:, :3].mean())
    if error > _LIMIT:
        raise ItemError(
            "palette.too_coarse",
            f"{name}: its palette of {len(table)} colours misses the result by {error:.1f}/255 on average "
            f"(limit {_LIMIT:.0f}); convert the file to RGB first",
        )
    entries[edited] = nearest[inverse.ravel()]
    return entries


def encode_entries(entries: Entries, parts: Chunks) -> bytes:
    """A palette PNG of `entries` at the depth of `parts`; its palette chunks are placeholders to be replaced."""
    image = Image.fromarray(entries)
    image.putpalette(palette(parts)[:, :3].tobytes())
    out = BytesIO()
    image.save(out, "PNG", compress_level=4, bits=parts.depth)
    return out.getvalue()
