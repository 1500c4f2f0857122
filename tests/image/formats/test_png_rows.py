"""Spliced PNG rows, judged by the standard's own recursion: any bytes behind filters 0 to 4 are a valid picture."""

import struct
import zlib

import numpy as np
import pytest

from refine_ops.image.formats import png, png_rows
from tests.support.made_files import png_chunk, unfilter_png

HEIGHT, WIDTH = 23, 9


def _random_file(channels: int, depth: int, rng: np.random.Generator) -> bytes:
    lines = rng.integers(0, 256, (HEIGHT, 1 + WIDTH * channels * depth // 8), dtype=np.uint8)
    lines[:, 0] = rng.permutation(np.arange(HEIGHT) % 5)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    return png.SIGNATURE + b"".join(png_chunk(*part) for part in parts)


def _lines(data: bytes, parts: png.Chunks) -> np.ndarray:
    return np.frombuffer(zlib.decompress(data), np.uint8).reshape(parts.height, -1)


@pytest.mark.parametrize(("channels", "depth"), [(1, 8), (2, 8), (3, 8), (4, 8), (1, 16), (3, 16), (4, 16)])
@pytest.mark.parametrize("first", [0, 7, HEIGHT - 1])
def test_edited_rows_are_exact_and_the_others_keep_their_bytes(channels: int, depth: int, first: int) -> None:
    rng = np.random.default_rng(channels * depth + first)
    source = _random_file(channels, depth, rng)
    parts, samples = png.chunks(source, "x"), unfilter_png(source)
    edited, changed = samples.copy(), np.zeros(HEIGHT, bool)
    changed[first : first + 4] = True
    edited[changed, 2:5] = rng.integers(0, 1 << depth, edited[changed, 2:5].shape)
    coded = png_rows.splice(parts, edited, changed)
    assert coded is not None
    assert np.array_equal(unfilter_png(png.reassemble(parts, coded, None)), edited)
    before, after = _lines(parts.first(b"IDAT") or b"", parts), _lines(coded, parts)
    below = np.arange(HEIGHT) > first + 4
    assert np.array_equal(before[below], after[below])
    assert np.array_equal(before[:first], after[:first])
    assert np.array_equal(before[:, 0], after[:, 0])


def test_files_whose_rows_are_not_lines_of_samples_are_left_to_the_encoder() -> None:
    source = png.chunks(_random_file(3, 8, np.random.default_rng(0)), "x")
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    none = np.zeros(HEIGHT, bool)
    damaged = [(kind, payload[:-20] if kind == b"IDAT" else payload) for kind, payload in source.items]
    too_long = [(kind, zlib.compress(bytes(9999)) if kind == b"IDAT" else payload) for kind, payload in source.items]
    for items in (damaged, too_long):
        parts = png.Chunks(WIDTH, HEIGHT, 8, source.colour, False, tuple(items), b"")
        assert png_rows.splice(parts, samples, none) is None
    interlaced = png.Chunks(WIDTH, HEIGHT, 8, source.colour, True, source.items, b"")
    assert png_rows.splice(interlaced, samples, none) is None


def test_a_flat_picture_does_not_grow_by_a_tenth() -> None:
    lines = np.zeros((600, 1 + 3 * 600), np.uint8)
    lines[::40, 1::7] = 200
    lines[:, 0] = 1
    head = struct.pack(">IIBBBBB", 600, 600, 8, 2, 0, 0, 0)
    coded = zlib.compress(lines.tobytes(), 6)
    source = png.SIGNATURE + b"".join(png_chunk(*part) for part in [(b"IHDR", head), (b"IDAT", coded), (b"IEND", b"")])
    spliced = png_rows.splice(png.chunks(source, "x"), unfilter_png(source), np.arange(600) == 5)
    assert spliced is not None
    assert len(spliced) < 1.1 * len(coded)
