"""Tiled TIFFs are edited in place: only the tiles that are touched change; tifffile is the second reader."""

import struct
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

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


def packed(samples: np.ndarray, compression: str) -> bytes:
    """Tiles that libtiff has packed, each as the one strip of a file of its own."""
    height, width = 16, 32
    rows, columns = -(-samples.shape[0] // height), -(-samples.shape[1] // width)
    whole = np.pad(samples, ((0, rows * height - len(samples)), (0, columns * width - samples.shape[1]), (0, 0)))
    tiles = []
    for row in range(rows):
        for column in range(columns):
            part = whole[row * height : (row + 1) * height, column * width : (column + 1) * width]
            out = BytesIO()
            Image.fromarray(np.ascontiguousarray(part)).save(out, "TIFF", compression=compression)
            ((at, size),) = directory(out.getvalue(), "x").strips
            tiles.append(out.getvalue()[at : at + size])
    out = BytesIO()
    options = {"tile": (height, width), "photometric": "rgb", "metadata": None, "compression": "zlib"}
    tifffile.imwrite(out, iter(tiles), shape=samples.shape, dtype=np.uint8, **options)
    data = bytearray(out.getvalue())
    struct.pack_into(
        "<H", data, directory(bytes(data), "x").tags[259].at, {"tiff_lzw": 5, "packbits": 32773}[compression]
    )
    return bytes(data)


KINDS = {
    "plain": tiled(RGB),
    "deflate, predictor": tiled(RGB, compression="zlib", predictor=True),
    "16 bits, big-endian": tiled(RGB.astype(np.uint16) * 257, compression="zlib", predictor=True, byteorder=">"),
    "16 bits grey": tiled(RGB[..., 0].astype(np.uint16) * 3),
    "grey": tiled(RGB[..., 0], compression="zlib"),
    "LZW": packed(RGB, "tiff_lzw"),
    "PackBits": packed(RGB, "packbits"),
    "one tile": tiled(RGB, tile=(128, 128), compression="zlib"),
    "alpha": tiled(np.dstack([RGB, RGB[..., 0]]), extrasamples=["unassalpha"], compression="zlib"),
}


def shown(data: bytes) -> np.ndarray:
    """By tifffile, which has no decoder of LZW, or else by Pillow."""
    try:
        return tifffile.imread(BytesIO(data))
    except ValueError:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image)


@pytest.mark.parametrize("kind", KINDS)
def test_only_tiles_that_are_touched_change(kind: str) -> None:
    data = KINDS[kind]
    before = shown(data)
    held = TiffFile.parse(data, "x").decode(LIMITS).samples
    assert np.array_equal(held if before.ndim == 3 else held[..., 0], before)
    done = refine(data, [BOX])
    after = shown(done.encoded.data)
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
