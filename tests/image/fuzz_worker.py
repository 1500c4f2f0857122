"""Damage files and put them through the chain; run by `test_fuzz.py` in a process of its own.

    python -m tests.image.fuzz_worker FIRST COUNT JOURNAL

Mutation `i` depends on `i` alone. `i` is written to JOURNAL before its turn, so that a crash names its input. Prints
one JSON line: how many were refused by reason, how many gave a verified output, and the growth of resident memory.
"""

import json
import os
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image import read
from tests.support.chain import refine
from tests.support.made_files import (
    exif_block,
    jpeg,
    odd_jpeg,
    palette_png,
    picture,
    png,
    tiff,
    webp,
    wide_profile,
    with_chunks,
    with_segments,
)

MEMORY_BYTES = 6 << 30
LIMITS = ImageLimits(max_pixels=1 << 20, max_bytes=1 << 22)
WARM_UP = 300


def corpus() -> list[bytes]:
    rng = np.random.default_rng(7)
    rgb = picture(rng, 40, 33)
    alpha = np.concatenate([rgb, rgb[..., :1]], axis=2)
    block = exif_block(6, thumbnail=jpeg(rgb[:16, :16], "444"))
    profile = (0xE2, b"ICC_PROFILE\0\x01\x01" + wide_profile())
    files = [
        with_segments(jpeg(rgb, s, progressive=p), (0xE1, b"Exif\0\0" + block)) for s in ("444", "420") for p in (0, 1)
    ]
    files += [jpeg(rgb, "411", restart=2), with_segments(jpeg(rgb, "422"), profile, trailing=b"tail")]
    files += [odd_jpeg(rgb, kind) for kind in ("grey", "cmyk", "ycck", "rgb")]
    files += [png(rgb), png(alpha, interlaced=True), png(rgb.astype(np.uint16) * 257), png(rgb[..., :1])]
    files += [with_chunks(png(rgb), (b"eXIf", block)), palette_png(rgb, 16, 4, transparent=True)]
    files += [webp(alpha, True), webp(rgb, False, exif=block, icc_profile=wide_profile())]
    files += [tiff(rgb, c, predictor=p) for c in ("raw", "zlib", "tiff_lzw", "packbits") for p in (False, True)]
    files += [tiff(rgb.astype(np.uint16) * 257, "zlib", big_endian=True), tiff(alpha, orientation=7)]
    return files


def damaged(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """One to three of: flipped bits, bytes set, a cut, a hole, a repeat, a foreign piece, an extreme number."""
    for _ in range(int(rng.integers(1, 4))):
        out = bytearray(data)
        at, length = int(rng.integers(0, max(1, len(out)))), int(rng.integers(1, 64))
        head_at = int(rng.integers(0, max(1, min(len(out), 700))))
        match int(rng.integers(0, 8)):
            case 0:
                out[at : at + 1] = bytes([out[at] ^ (1 << int(rng.integers(0, 8)))]) if out else b"\0"
            case 1:
                out[head_at : head_at + 1] = bytes([int(rng.integers(0, 256))])
            case 2:
                del out[at:]
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case 5:
                start = int(rng.integers(0, max(1, len(other))))
                out[at : at + length] = other[start : start + length]
            case 6:
                value = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                packed = struct.pack(rng.choice(["<", ">"]) + rng.choice(["I", "H"]), value & 0xFFFF)
                out[head_at : head_at + len(packed)] = packed
            case 7:
                out[head_at : head_at + length] = rng.bytes(length)
        data = bytes(out)
    return data


def with_checksums(data: bytes) -> bytes:
    """Damaged PNG chunks with valid checksums, so that what lies behind them is reached."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attempt(data: bytes) -> str:
    """The reason of the refusal, or 'verified'. Every other exception is a defect and escapes."""
    try:
        source = read.decode(data, name="fuzzed", limits=LIMITS)
        x, y = source.width // 2, source.height // 2
        refine(data, [(x, y, x + 1, y + 1)])
    except ItemError as error:
        return error.reason
    return "verified"


def main(first: int, count: int, journal: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    files = corpus()
    results: Counter[str] = Counter()
    slowest, baseline = 0.0, 0
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT)
    for index in range(first, first + count):
        os.pwrite(descriptor, b"%12d" % index, 0)
        rng = np.random.default_rng(index)
        pick, other = rng.integers(0, len(files), 2)
        data = damaged(files[pick], rng, files[other])
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = with_checksums(data)
        start = time.perf_counter()
        results[attempt(data)] += 1
        slowest = max(slowest, time.perf_counter() - start)
        if index == first + WARM_UP:
            baseline = resident_bytes()
    grown = resident_bytes() - baseline if baseline else 0
    print(json.dumps({"results": results, "grown_bytes": grown, "slowest_s": slowest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
