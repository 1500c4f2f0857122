"""What the chain makes of known files with a known patch, per format, as figures that tell when a pixel changes.

    python -m tests.support.pixels       # record anew what tests/test_pixels.py holds the code against

What is looked at are samples, not files: quantised coefficients of a JPEG, decoded samples of everything else. So a new
version of a compressor changes nothing. Decoders differ only for lossy sources, which are JPEGs kept as files in
`tests/golden/`; libjpeg's default transform is integer arithmetic and the same on every machine. Outputs of 8 bits are
hashed: they were the same with OpenCV's and NumPy's AVX paths on and off. Outputs of 16 bits were not, by the last
bit of some samples; of those the means over 8 x 8 px are kept, and may differ by 1 level of 65,535.
"""

import hashlib
import json
import tempfile
import zlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import jpegio
import numpy as np
from PIL import Image
from skimage import data

from refine_ops import PIXEL_VERSION
from refine_ops.chain import refine_image
from refine_ops.config import FocusSettings, PasteSettings, RefineSettings, WriteSettings
from refine_ops.records import Box, Conditioning, Item, Patch, Region, Scribble
from tests.support import ROOT
from tests.support.made_files import (
    opencv_samples,
    pillow_samples,
    png,
    tiff,
    webp,
    wide_profile,
    with_chunks,
)

GOLDEN = ROOT / "tests" / "golden"
RECORD = GOLDEN / "pixels.json"
_PLACE: Box = (180, 60, 308, 156)
"""Of the astronaut (NASA, public domain): 128 x 96 px of face and background."""
_REGIONS = (
    Region("eye", "Refine the eye", box=(34, 30, 70, 52)),
    Region("collar", "Refine the seam", scribble=Scribble((((20.0, 80.0), (60.5, 70.0), (100.0, 88.0)),), 7.0)),
)


@dataclass(frozen=True, slots=True)
class _Work:
    item: Conditioning

    @property
    def bucket(self) -> Hashable:
        return self.item.image.shape[:2]


class KnownRefiner:
    """Darkens the marked pixels, and shifts the whole patch in position and tone as a model does."""

    grid_px = 8
    focus_pixels = 64 * 64
    reference = "as_given"
    tile_zoom = 0.0

    def batch_size(self, bucket: object) -> int:
        return 1

    def prepare(self, item: Conditioning) -> _Work:
        return _Work(item)

    def refine_prepared(self, batch: Sequence[_Work]) -> list[Patch]:
        return [self._patch(work.item) for work in batch]

    def _patch(self, item: Conditioning) -> Patch:
        pixels = np.where(item.mask[..., None], item.image // 2, item.image)
        pixels = np.roll(pixels, (1, 2), (0, 1)).astype(np.float32) / np.float32(255) * np.float32(0.96)
        return Patch(pixels, np.ones(item.mask.shape, bool), 1)


def picture() -> np.ndarray:
    """`uint8 (96, 128, 3)`."""
    x0, y0, x1, y1 = _PLACE
    return np.ascontiguousarray(data.astronaut()[y0:y1, x0:x1])


def sources() -> Iterator[tuple[str, bytes, RefineSettings]]:
    """A name, a file and settings per case: every format, and every setting that says what may change."""
    rgb, plain = picture(), RefineSettings()
    deep = rgb.astype(np.uint16) * 257 + np.arange(128, dtype=np.uint16)[None, :, None]
    alpha = np.dstack([rgb, np.broadcast_to(np.arange(128, dtype=np.uint8) * 2, rgb.shape[:2])])
    kept = {name: (GOLDEN / f"{name}.jpg").read_bytes() for name in ("jpeg-420", "jpeg-444", "jpeg-progressive")}
    for name, file in kept.items():
        yield name, file, plain
    yield "jpeg-confined", kept["jpeg-420"], RefineSettings(paste=PasteSettings(confine="region"))
    yield "jpeg-no-bleed", kept["jpeg-420"], RefineSettings(write=WriteSettings(jpeg_bleed="none"))
    yield "jpeg-to-png", kept["jpeg-444"], RefineSettings(write=WriteSettings(output_format="png"))
    yield "png-alpha", png(alpha), plain
    yield "png-paper-blend", png(rgb), RefineSettings(paste=PasteSettings(blend="paper"))
    yield "png-tiled", png(rgb), RefineSettings(focus=FocusSettings(tile_zoom=2.0))
    yield "png-16", png(deep), plain
    yield "png-wide-gamut", with_chunks(png(rgb), (b"iCCP", b"wide\0\0" + zlib.compress(wide_profile()))), plain
    yield "png-palette", _grey_ramp(rgb[..., 1]), plain
    yield "webp", webp(rgb, lossless=True), plain
    yield "tiff-16", tiff(deep, "deflate"), plain
    yield "tiff-turned", tiff(rgb, "deflate", predictor=True, orientation=6), plain


def _grey_ramp(grey: np.ndarray) -> bytes:
    """A PNG whose palette is the grey levels in falling order."""
    out = BytesIO()
    image = Image.fromarray(255 - grey, "P")
    image.putpalette(bytes(level for entry in range(256) for level in [255 - entry] * 3))
    image.save(out, "PNG")
    return out.getvalue()


def figures() -> dict[str, object]:
    """By case: the SHA-256 of its output's samples, their shape and type; or `list[int]`, means of 16-bit samples."""
    found: dict[str, object] = {}
    for name, file, settings in sources():
        confined = settings.paste.confine == "region"  # the thin scribble holds no whole JPEG block
        item = Item(name, name, name, _REGIONS[:1] if confined else _REGIONS, row=0)
        samples = _samples(refine_image(item, {name: file}, KnownRefiner(), settings).data)
        found[name] = _means(samples[0]) if samples[0].dtype == np.uint16 else _digest(samples)
    return found


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _means(samples: np.ndarray) -> list[int]:
    height, width, channels = samples.shape
    blocks = samples.reshape(height // 8, 8, width // 8, 8, channels)
    return [round(float(mean)) for mean in blocks.mean((1, 3)).ravel()]


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Names of the cases whose figures differ, and of those that are in one of the two alone."""
    names = before.keys() | after.keys()
    return sorted(name for name in names if not _same(before.get(name), after.get(name)))


def _same(before: object, after: object) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(abs(a - b) <= 1 for a, b in zip(before, after, strict=True))
    return before == after


def _samples(file: bytes) -> list[np.ndarray]:
    if file[:2] == b"\xff\xd8":
        with tempfile.NamedTemporaryFile(suffix=".jpg") as kept:
            kept.write(file)
            kept.flush()
            read = jpegio.read(kept.name)
            return [np.ascontiguousarray(part) for part in (*read.coef_arrays, *read.quant_tables)]
    decoder = pillow_samples if file[:4] == b"RIFF" else opencv_samples
    return [np.ascontiguousarray(decoder(file))]


if __name__ == "__main__":
    lines = [f'  "{name}": {json.dumps(kept)}' for name, kept in figures().items()]
    RECORD.write_text(f'{{"pixel_version": {PIXEL_VERSION}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{RECORD.relative_to(ROOT)}: recorded under pixel version {PIXEL_VERSION}")
