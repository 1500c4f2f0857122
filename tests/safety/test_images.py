"""No image, mask or reference is trusted: hostile files end as dead letters, quickly and in bounded memory."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refine_ops.config import ImageLimits, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.opened import open_item
from refine_ops.records import Item, Region
from tests.support import ROOT

_DECODE = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import read
from refine_ops.image.formats.table import header_pixels
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    before, started = peak(), time.process_time()
    try:
        header_pixels(data)
        verdict = "decoded %dx%d" % read.decode(data, name="x", limits=ImageLimits()).size
    except ItemError as e:
        verdict = e.reason
    print(verdict, peak() - before, round(time.process_time() - started, 2), sep=";")
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def small_png(*extra: bytes) -> bytes:
    return png(8, 8, zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(8))), *extra)


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; entries are (tag, type, count, value or offset)."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + tail


def small_jpeg(exif: bytes = b"") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(out, "JPEG", exif=exif)
    return out.getvalue()


BOMB = zlib.compress(bytes(400_000_000), 9)
SIDES = [(256, 3, 1, 60_000), (257, 3, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
HOSTILE = {
    "png of 60000 x 60000 in 60 bytes": png(60_000, 60_000, zlib.compress(b"")),
    "png whose pixels inflate to 400 MB": png(8, 8, BOMB),
    "png whose colour profile inflates to 400 MB": small_png(chunk(b"iCCP", b"p\0\0" + BOMB)),
    "png whose text inflates to 400 MB": small_png(chunk(b"zTXt", b"k\0\0" + BOMB)),
    "png that claims a chunk of 4 GB": small_png() + struct.pack(">I", 0xFFFFFFFF) + b"IDAT",
    "tiff of 60000 x 60000 without data": tiff([*SIDES, (273, 4, 1, 8), (279, 4, 1, 4)]),
    "tiff whose directory follows itself": tiff([*SIDES[2:], (256, 3, 1, 8), (257, 3, 1, 8)], following=8),
    "tiff with a tag of 4 billion values": tiff([(256, 3, 1, 8), (257, 3, 1, 8), (273, 4, 0xFFFFFFFF, 8)]),
    "tiff whose strip lies outside": tiff([(256, 3, 1, 8), (257, 3, 1, 8), (273, 4, 1, 1 << 30), (279, 4, 1, 1 << 30)]),
    "jpeg whose exif follows itself": small_jpeg(b"Exif\0\0" + tiff([(274, 3, 1, 6), (34665, 4, 1, 8)], following=8)),
    "jpeg with an exif tag of 4 billion values": small_jpeg(b"Exif\0\0" + tiff([(270, 2, 0xFFFFFFFF, 8)])),
    "zip that is called an image": b"PK\x03\x04" + bytes(4096),
    "svg with an external entity": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><svg>&e;</svg>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) (r) file\n",
    "gif": b"GIF89a" + bytes(64),
    "nothing": b"",
}


@pytest.mark.processes
def test_hostile_files_end_quickly_and_in_little_memory(tmp_path: Path) -> None:
    paths = []
    for index, data in enumerate(HOSTILE.values()):
        paths.append(tmp_path / str(index))
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", _DECODE, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"after {len(done.stdout.splitlines())} files:\n{done.stderr[-2000:]}"
    for name, line in zip(HOSTILE, done.stdout.splitlines(), strict=True):
        verdict, grown_mib, cpu_s = line.split(";")
        assert verdict.startswith("image.") or verdict in ("decoded 8x8", "decoded 16x16"), f"{name}: {line}"
        assert int(grown_mib) < 500, f"{name}: {line}"
        assert float(cpu_s) < 10, f"{name}: {line}"


def test_references_are_counted_together() -> None:
    """One item may name 256 references; each alone would be within the limit."""
    data = png(100, 100, zlib.compress(bytes(100 * 301)))
    regions = tuple(Region(f"r{i}", "Refine", box=(0, 0, 9, 9), reference=f"{i}.png") for i in range(3))
    item = Item("sku", "0.png", "", regions, 0)
    inputs = {f"{i}.png": data for i in range(3)}
    assert open_item(item, inputs, RefineSettings(limits=ImageLimits(max_pixels=30_000))).source.size == (100, 100)
    with pytest.raises(ItemError, match="3 references have 30,000 pixels together"):
        open_item(item, inputs, RefineSettings(limits=ImageLimits(max_pixels=29_999)))
