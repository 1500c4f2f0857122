"""JPEG files: their segments, their samples, and how they are put together again around new scans."""

import itertools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Self

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif, jpeg_blocks
from refine_ops.image.formats.codec import ParsedFile, look_with_pillow
from refine_ops.image.formats.edit import Edit, Encoded
from refine_ops.image.formats.jpeg_blocks import Component, Frame
from refine_ops.image.formats.native import Model, Native, check_size, with_channels
from refine_ops.image.formats.previews import photoshop
from refine_ops.image.formats.previews.thumbnail import fresh_exif, fresh_resources
from refine_ops.image.formats.previews.xmp import parts_without_stale, without_stale
from refine_ops.records import Mask

_SOI, _EOI, _SOS, _DQT, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xFE
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_DCT: Final = frozenset({0xC0, 0xC1, 0xC2})
_AFTER_ENTROPY: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION: Final = b"http://ns.adobe.com/xmp/extension/\0"
_C2PA_TYPE: Final = bytes.fromhex("63327061 0011 0010 8000 00aa00389b71")
_PHOTOSHOP: Final = b"Photoshop 3.0\0"
_MAX_PAYLOAD: Final = 0xFFFF - 2
_BOX_HEAD_BYTES: Final = 40
"""Of a JUMBF box: until its type is known."""
_ICC: Final = b"ICC_PROFILE\0"
_MODELS: Final[dict[str, Model]] = {"L": "grey", "RGB": "rgb", "CMYK": "cmyk"}


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker segment; `payload` excludes marker and length. A scan's entropy-coded data is not in it."""

    marker: int
    start: int
    payload: bytes

    @property
    def end(self) -> int:
        """Just past the payload."""
        return self.start + 4 + len(self.payload)


@dataclass(frozen=True, slots=True)
class Layout:
    """A JPEG taken apart: its segments, where it ends, and the frame that says where a pixel's coefficients are."""

    segments: tuple[Segment, ...]
    end: int
    """Offset just past EOI; what follows are trailing bytes."""
    frame: Frame


def layout(data: bytes, name: str) -> Layout:
    """Walk all segments up to EOI.

    Raises:
        ItemError: `image.truncated`, `image.unsupported` (lossless, arithmetic, 12-bit, odd sampling),
            `image.multi_frame` (MPF).
    """
    segments, end = _walk(data, name)
    headers = [s for s in segments if s.marker in _FRAMES]
    if len(headers) != 1 or len(headers[0].payload) < 9:
        raise ItemError("image.truncated", f"{name}: expected one frame header, found {len(headers)}; export it again")
    header = headers[0]
    precision, height, width, count = struct.unpack_from(">BHHB", header.payload)
    if header.marker not in _HUFFMAN_DCT or precision != 8:
        raise ItemError(
            "image.unsupported",
            f"{name}: JPEG process SOF{header.marker - 0xC0} with {precision} bits; supported are 8-bit baseline, "
            "extended and progressive with Huffman coding; convert it with another tool",
        )
    if any(_is_index(s) for s in segments):
        raise ItemError("image.multi_frame", f"{name}: several pictures in one JPEG (MPF); give one of them alone")
    if not width or not height or len(header.payload) < 6 + 3 * count:
        raise ItemError("image.truncated", f"{name}: the frame header says {width} x {height}; export it again")
    parts = [header.payload[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    components = tuple(Component(p[1] >> 4, p[1] & 15, p[2]) for p in parts)
    if not _plain_sampling(components):
        raise ItemError("image.unsupported", f"{name}: JPEG sampling {[(c.h, c.v) for c in components]}; convert it")
    first = next((s.payload for s in segments if s.marker == _SOS), b"")
    apart = first[:1] != bytes([count])
    return Layout(tuple(segments), end, Frame(width, height, components, _table_slots(segments), apart))


@dataclass(frozen=True, slots=True, eq=False)
class JpegFile(ParsedFile):
    """A JPEG of 8 bits, baseline or progressive, edited in its coefficients."""

    layout: Layout

    format = "jpeg"
    suffix = ".jpg"
    reads = "JPEG (8-bit baseline or progressive)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:3] == b"\xff\xd8\xff"

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        return cls(data, name, layout(data, name))

    def decode(self, limits: ImageLimits) -> Native:
        """Samples as Pillow (libjpeg-turbo, slow integer DCT, fancy upsampling) decodes them."""
        frame = self.layout.frame
        check_size(frame.width, frame.height, self.name, limits)
        try:
            with Image.open(BytesIO(self.data[: self.layout.end]), formats=["JPEG"]) as image:
                model = _MODELS.get(image.mode)
                samples = np.asarray(image)
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            raise ItemError("image.truncated", f"{self.name}: damaged JPEG ({error}); export it again") from error
        if model is None:
            raise ItemError(
                "image.unsupported", f"{self.name}: a JPEG with {len(frame.components)} components; convert it"
            )
        return Native(
            samples=with_channels(samples),
            model=model,
            orientation=exif.orientation(self.exif() or b""),
            icc=icc_profile(self.layout),
        )

    @classmethod
    def look(cls, data: bytes, name: str, limits: ImageLimits) -> Native:
        """Of several pictures (MPF) the first: without their index it is a JPEG as any other."""
        segments, end = _walk(data, name)
        kept, at = [], 0
        for segment in segments:
            if _is_index(segment):
                kept.append(data[at : segment.start])
                at = segment.start + 4 + len(segment.payload)
        return look_with_pillow(cls.format, b"".join([*kept, data[at:end]]), name, limits)

    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        """Pillow's decoder: edits are written by pyjpegio."""
        return self.decode(limits), f"Pillow {features.version('jpg')}"

    def edit(self, edit: Edit) -> Encoded:
        frame, bleed = self.layout.frame, "none" if edit.confined else edit.settings.jpeg_bleed
        touched = jpeg_blocks.touched_mcus(edit.support, frame)
        coded = jpeg_blocks.splice(self.data, frame, edit.before, edit.after, touched, bleed)
        resources = [fresh_resources(s.payload[len(_PHOTOSHOP) :], edit) for s in _resource_segments(self.layout)]
        data = reassemble(self.data, self.layout, coded, fresh_exif(self.exif(), edit), resources)
        return Encoded(data, self.format)

    def metadata(self) -> list[tuple[str, bytes]]:
        """APPn and COM in order, trailing bytes; EXIF, XMP and Photoshop's resources without their
        thumbnails."""
        kept, extended = [], _extended_xmp(self.layout)
        for segment in self.layout.segments:
            if _is_metadata(segment.marker):
                payload = extended.get(segment.start, segment.payload)
                if payload.startswith(_EXIF):
                    payload = _EXIF + exif.without_thumbnail(payload[len(_EXIF) :])
                if segment.marker == 0xE1 and payload.startswith(_XMP):
                    payload = without_stale(payload)
                if segment.marker == 0xED and payload.startswith(_PHOTOSHOP):
                    payload = _PHOTOSHOP + photoshop.without_thumbnails(payload[len(_PHOTOSHOP) :])
                kept.append((f"{segment.marker:02x}", payload))
        return [*kept, ("trailing", self.data[self.layout.end :])]

    def credentials(self) -> list[tuple[str, bytes]]:
        return [(f"{s.marker:02x}", s.payload) for s in credential_segments(self.layout)]

    def exif(self) -> bytes | None:
        return _app1(self.layout, _EXIF)

    def xmp(self) -> bytes | None:
        return _app1(self.layout, _XMP)

    def with_xmp(self, packet: bytes) -> bytes:
        """A new segment lies behind JFIF's and EXIF's."""
        payload = _XMP + packet
        if len(payload) > _MAX_PAYLOAD:
            raise ItemError(
                "provenance.no_room",
                f"{self.name}: its XMP would have {len(packet):,} bytes, more than a JPEG segment holds; shorten it",
            )
        segments = self.layout.segments
        own = next((s for s in segments if s.marker == 0xE1 and s.payload.startswith(_XMP)), None)
        if own is not None:
            start, end = own.start, own.end
        else:
            first = itertools.takewhile(lambda s: s.marker == 0xE0 or s.payload.startswith(_EXIF), segments)
            start = end = max((s.end for s in first), default=2)
        segment = struct.pack(">BBH", 0xFF, 0xE1, len(payload) + 2) + payload
        return self.data[:start] + segment + self.data[end:]

    def wholly_inside(self, region: Mask) -> Mask:
        return jpeg_blocks.whole_mcus(region, self.layout.frame)


def icc_profile(plan: Layout) -> bytes | None:
    """The ICC profile put together from its numbered APP2 chunks, or None."""
    chunks = [s.payload for s in plan.segments if s.marker == 0xE2 and s.payload.startswith(_ICC)]
    ordered = sorted((c for c in chunks if len(c) > 14), key=lambda c: c[12])
    return b"".join(c[14:] for c in ordered) or None


def credential_segments(plan: Layout) -> list[Segment]:
    """APP11 segments of JUMBF boxes that are C2PA manifest stores; other JUMBF boxes are somebody else's.

    A box is cut over segments of one instance number, each of which repeats its header (JPEG XT, ISO 18477-3).
    """
    boxes = [s for s in plan.segments if s.marker == 0xEB and s.payload.startswith(b"JP") and len(s.payload) >= 16]
    heads: dict[bytes, bytes] = {}
    for segment in boxes:
        instance, piece = segment.payload[2:4], segment.payload[8:]
        head = heads.get(instance, b"")
        if len(head) < _BOX_HEAD_BYTES:  # a description may be cut over segments of a few bytes each
            heads[instance] = head + piece[16 if head and piece[:4] == b"\0\0\0\1" else 8 * bool(head) :]
    signed = {instance for instance, head in heads.items() if _is_manifest_store(head)}
    return [s for s in boxes if s.payload[2:4] in signed]


def _is_manifest_store(box: bytes) -> bool:
    """Whether a JUMBF superbox begins with a description box of C2PA's type."""
    wide = int.from_bytes(box[:4], "big") == 1  # a 64-bit length follows the type
    description = box[16 if wide else 8 :]
    return box[4:8] == b"jumb" and description[4:8] == b"jumd" and description[8:24] == _C2PA_TYPE


def _resource_segments(plan: Layout) -> list[Segment]:
    """Photoshop's image resources; a list over several segments is left alone, as each of them is not whole."""
    return [s for s in plan.segments if s.marker == 0xED and s.payload.startswith(_PHOTOSHOP)]


def reassemble(
    original: bytes, plan: Layout, coded: bytes, new_exif: bytes | None, resources: Sequence[bytes] = ()
) -> bytes:
    """The original's metadata, but its credentials, and trailing bytes around the tables and scans of `coded`.

    `new_exif` replaces the EXIF block where given, `resources` Photoshop's, in order.
    """
    renewed = {s.start: _PHOTOSHOP + new for s, new in zip(_resource_segments(plan), resources, strict=False)}
    renewed |= _extended_xmp(plan)
    head, dropped = [original[:2]], {segment.start for segment in credential_segments(plan)}
    for segment in plan.segments:
        if not _is_metadata(segment.marker) or segment.start in dropped:
            continue
        payload = renewed.get(segment.start, segment.payload)
        if len(payload) > _MAX_PAYLOAD:  # a fresh thumbnail that is larger than its segment
            payload = _PHOTOSHOP + photoshop.without_thumbnails(payload[len(_PHOTOSHOP) :])
        if new_exif is not None and segment.marker == 0xE1 and payload.startswith(_EXIF):
            payload = _EXIF + new_exif
            new_exif = None
        if segment.marker == 0xE1 and payload.startswith(_XMP):
            payload = without_stale(payload)
        head.append(struct.pack(">BBH", 0xFF, segment.marker, len(payload) + 2) + payload)
    segments, end = _walk(coded, "spliced JPEG")
    body = next(s.start for s in segments if not _is_metadata(s.marker))
    return b"".join([*head, coded[body:end], original[plan.end :]])


def _extended_xmp(plan: Layout) -> dict[int, bytes]:
    """The payloads of Extended XMP without what no edit may leave, by the start of their segments."""
    segments = [s for s in plan.segments if s.marker == 0xE1 and s.payload.startswith(_XMP_EXTENSION)]
    clean = parts_without_stale([segment.payload[len(_XMP_EXTENSION) :] for segment in segments])
    return {segment.start: _XMP_EXTENSION + part for segment, part in zip(segments, clean, strict=True)}


def _app1(plan: Layout, prefix: bytes) -> bytes | None:
    """What follows `prefix` in the first APP1 segment that begins so."""
    for segment in plan.segments:
        if segment.marker == 0xE1 and segment.payload.startswith(prefix):
            return segment.payload[len(prefix) :]
    return None


def _table_slots(segments: list[Segment]) -> tuple[int, ...]:
    """Quantisation table slots the file defines, ascending."""
    slots = set()
    for segment in segments:
        at = 0
        while segment.marker == _DQT and at < len(segment.payload):
            slots.add(segment.payload[at] & 15)
            at += 129 if segment.payload[at] >> 4 else 65
    return tuple(sorted(slots))


def _is_index(segment: Segment) -> bool:
    """Whether it lists several pictures in one file (CIPA DC-007)."""
    return segment.marker == 0xE2 and segment.payload.startswith(b"MPF\0")


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
