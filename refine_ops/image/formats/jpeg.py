"""JPEG files: their segments, their samples, and how they are put together again around new scans."""

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.source import Model, Native, check_size

_SOI, _EOI, _SOS, _DQT, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xFE
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_DCT: Final = frozenset({0xC0, 0xC1, 0xC2})
_AFTER_ENTROPY: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EXIF: Final = b"Exif\0\0"
_ICC: Final = b"ICC_PROFILE\0"
_MODELS: Final[dict[str, Model]] = {"L": "grey", "RGB": "rgb", "CMYK": "cmyk"}


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker segment; `payload` excludes marker and length. A scan's entropy-coded data is not in it."""

    marker: int
    start: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Component:
    """Sampling factors and quantisation slot of one colour component."""

    h: int
    v: int
    table: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a JPEG file that decide where a pixel's coefficients are."""

    segments: tuple[Segment, ...]
    end: int
    """Offset just past EOI; what follows are trailing bytes."""
    width: int
    height: int
    components: tuple[Component, ...]

    @property
    def mcu_px(self) -> tuple[int, int]:
        """(width, height) of one MCU in pixels; a single component is never interleaved, so 8x8."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(c.h for c in self.components), 8 * max(c.v for c in self.components)

    @property
    def chroma_subsampled(self) -> tuple[bool, bool]:
        """Whether components differ in horizontal and in vertical resolution."""
        return len({c.h for c in self.components}) > 1, len({c.v for c in self.components}) > 1

    @property
    def table_slots(self) -> list[int]:
        """Quantisation table slots the file defines, ascending."""
        slots = set()
        for segment in self.segments:
            at = 0
            while segment.marker == _DQT and at < len(segment.payload):
                slots.add(segment.payload[at] & 15)
                at += 129 if segment.payload[at] >> 4 else 65
        return sorted(slots)


def layout(data: bytes, name: str) -> Layout:
    """Walk all segments up to EOI.

    Raises:
        ItemError: `image.truncated`, `image.unsupported` (lossless, arithmetic, 12-bit, odd sampling),
            `image.multi_frame` (MPF).
    """
    segments, end = _walk(data, name)
    frames = [s for s in segments if s.marker in _FRAMES]
    if len(frames) != 1 or len(frames[0].payload) < 9:
        raise ItemError("image.truncated", f"{name}: expected one frame header, found {len(frames)}; export it again")
    frame = frames[0]
    precision, height, width, count = struct.unpack_from(">BHHB", frame.payload)
    if frame.marker not in _HUFFMAN_DCT or precision != 8:
        raise ItemError(
            "image.unsupported",
            f"{name}: JPEG process SOF{frame.marker - 0xC0} with {precision} bits; supported are 8-bit baseline, "
            "extended and progressive with Huffman coding; convert it with another tool",
        )
    if any(s.marker == 0xE2 and s.payload.startswith(b"MPF\0") for s in segments):
        raise ItemError("image.multi_frame", f"{name}: several pictures in one JPEG (MPF); extract the one to refine")
    if not width or not height or len(frame.payload) < 6 + 3 * count:
        raise ItemError("image.truncated", f"{name}: the frame header says {width} x {height}; export it again")
    parts = [frame.payload[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    components = tuple(Component(p[1] >> 4, p[1] & 15, p[2]) for p in parts)
    if not _plain_sampling(components):
        raise ItemError("image.unsupported", f"{name}: JPEG sampling {[(c.h, c.v) for c in components]}; convert it")
    return Layout(tuple(segments), end, width, height, components)


def decode(data: bytes, name: str, limits: ImageLimits) -> Native:
    """Samples as Pillow (libjpeg-turbo, slow integer DCT, fancy upsampling) decodes them, not turned.

    Raises:
        ItemError: as `layout`, `image.too_large`, and `image.truncated` where the coded data ends early.
    """
    plan = layout(data, name)
    check_size(plan.width, plan.height, name, limits)
    try:
        with Image.open(BytesIO(data[: plan.end]), formats=["JPEG"]) as image:
            model = _MODELS.get(image.mode)
            samples = np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise ItemError("image.truncated", f"{name}: damaged JPEG ({error}); export it again") from error
    if model is None:
        raise ItemError("image.unsupported", f"{name}: a JPEG with {len(plan.components)} components; convert it")
    return Native(
        samples=samples if samples.ndim == 3 else samples[:, :, None],
        model=model,
        orientation=orientation(plan),
        icc=icc_profile(plan),
    )


def orientation(plan: Layout) -> int:
    block = exif_block(plan)
    return exif.orientation(block) if block else 1


def exif_block(plan: Layout) -> bytes | None:
    """The TIFF-structured EXIF block, without its `Exif\\0\\0` prefix."""
    for segment in plan.segments:
        if segment.marker == 0xE1 and segment.payload.startswith(_EXIF):
            return segment.payload[len(_EXIF) :]
    return None


def icc_profile(plan: Layout) -> bytes | None:
    """The ICC profile put together from its numbered APP2 chunks, or None."""
    chunks = [s.payload for s in plan.segments if s.marker == 0xE2 and s.payload.startswith(_ICC)]
    ordered = sorted((c for c in chunks if len(c) > 14), key=lambda c: c[12])
    return b"".join(c[14:] for c in ordered) or None


def metadata(data: bytes, plan: Layout) -> list[tuple[str, bytes]]:
    """Everything kept byte for byte: APPn and COM in order, trailing bytes; EXIF without its thumbnail."""
    kept = []
    for segment in plan.segments:
        if _is_metadata(segment.marker):
            payload = segment.payload
            if payload.startswith(_EXIF):
                payload = _EXIF + exif.without_thumbnail(payload[len(_EXIF) :])
            kept.append((f"{segment.marker:02x}", payload))
    return [*kept, ("trailing", data[plan.end :])]


def reassemble(original: bytes, plan: Layout, coded: bytes, new_exif: bytes | None) -> bytes:
    """The original's metadata and trailing bytes around the tables and scans of `coded`.

    `new_exif` replaces the EXIF block where given.
    """
    head = [original[:2]]
    for segment in plan.segments:
        if not _is_metadata(segment.marker):
            continue
        payload = segment.payload
        if new_exif is not None and segment.marker == 0xE1 and payload.startswith(_EXIF):
            payload = _EXIF + new_exif
            new_exif = None
        head.append(struct.pack(">BBH", 0xFF, segment.marker, len(payload) + 2) + payload)
    segments, end = _walk(coded, "spliced JPEG")
    body = next(s.start for s in segments if not _is_metadata(s.marker))
    return b"".join([*head, coded[body:end], original[plan.end :]])


def _is_metadata(marker: int) -> bool:
    return 0xE0 <= marker <= 0xEF or marker == _COM


def _walk(data: bytes, name: str) -> tuple[list[Segment], int]:
    segments: list[Segment] = []
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if at + 2 > len(data) or data[at] != 0xFF:
            raise ItemError("image.truncated", f"{name}: no marker at byte {at} of {len(data)}; export it again")
        marker, start = data[at + 1], at
        at += 2
        if marker == _EOI:
            return segments, at
        if marker in _STANDALONE:
            continue
        size = int.from_bytes(data[at : at + 2], "big")
        if size < 2 or at + size > len(data):
            raise ItemError("image.truncated", f"{name}: the file ends inside segment {marker:02x}; export it again")
        segments.append(Segment(marker, start, data[at + 2 : at + size]))
        at += size
        if marker == _SOS:
            found = _AFTER_ENTROPY.search(data, at)
            if found is None:
                raise ItemError("image.truncated", f"{name}: the coded data has no end; export it again")
            at = found.start()


def _plain_sampling(components: tuple[Component, ...]) -> bool:
    """Whether every component's resolution divides the largest one's."""
    if not components or any(not 1 <= c.h <= 4 or not 1 <= c.v <= 4 for c in components):
        return False
    widest, tallest = max(c.h for c in components), max(c.v for c in components)
    return all(widest % c.h == 0 and tallest % c.v == 0 for c in components)
