"""Tiled TIFFs are edited in place: only the tiles that are touched change; tifffile is the second reader."""

from io import BytesIO

import numpy as np
import pytest
import tifffile

from refine_ops.errors import ItemError
from refine_ops.image.formats.tiff import directory
from refine_ops.image.formats.tiff_strips import TiffFile
from tests.support.chain import LIMITS, near, refine
from tests.support.made_files import picture

RGB = picture(np.random.default_rng(5), 90, 70)
BOX = (34, 20, 44, 26)


def tiled(samples: np.ndarray, **options: object) -> bytes:
    out = BytesIO()
    photometric = "rgb" if samples.ndim == 3 else "minisblack"
    tifffile.imwrite(out, samples, **{"tile": (16, 32), "photometric": photometric, "metadata": None, **options})
    return out.getvalue()


KINDS = {
    "plain": tiled(RGB),
    "deflate, predictor": tiled(RGB, compression="zlib", predictor=True),
    "16 bits, big-endian": tiled(RGB.astype(np.uint16) * 257, compression="zlib", predictor=True, byteorder=">"),
    "16 bits grey": tiled(RGB[..., 0].astype(np.uint16) * 3),
    "grey": tiled(RGB[..., 0], compression="zlib"),
    "one tile": tiled(RGB, tile=(128, 128), compression="zlib"),
    "alpha": tiled(np.dstack([RGB, RGB[..., 0]]), extrasamples=["unassalpha"], compression="zlib"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_tiles_that_are_touched_change(kind: str) -> None:
    data = KINDS[kind]
    before = tifffile.imread(BytesIO(data))
    held = TiffFile.parse(data, "x").decode(LIMITS).samples
    assert np.array_equal(held if before.ndim == 3 else held[..., 0], before)
    done = refine(data, [BOX])
    after = tifffile.imread(BytesIO(done.encoded.data))
    changed = before != after if before.ndim == 2 else (before != after).any(axis=2)
    assert changed.any()
    assert not (changed & ~near([BOX], 90, 70)).any()
    assert done.proof.metadata_equal
    old, new = directory(data, "x"), directory(done.encoded.data, "x")
    for index, (was, now) in enumerate(zip(old.strips, new.strips, strict=True)):
        if not changed[old.place(index)].any():
            assert was == now
            assert data[was[0] : sum(was)] == done.encoded.data[now[0] : sum(now)]


def test_tiles_that_share_their_bytes_do_not_change_together() -> None:
    data = bytearray(tiled(np.full((64, 64, 3), 90, np.uint8), tile=(16, 16)))
    found = directory(bytes(data), "x")
    table = found.tags[found.tables[0]]
    data[table.at : table.at + len(table.raw)] = table.raw[:4] * (len(table.raw) // 4)
    done = refine(bytes(data), [(20, 20, 28, 28)])
    changed = (tifffile.imread(BytesIO(done.encoded.data)) != 90).any(axis=2)
    assert changed.any()
    assert not (changed & ~near([(20, 20, 28, 28)], 64, 64)).any()


def test_tiles_of_padding_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ItemError, match="mostly padding"):
        TiffFile.parse(tiled(RGB[:16, :16], tile=(4096, 2048), compression="zlib"), "x")
