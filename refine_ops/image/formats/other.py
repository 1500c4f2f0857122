"""Formats that are read but never edited: their pixels become a PNG or a lossless WebP where that is asked for.

AVIF, HEIC and JPEG 2000 cannot keep the rest of a picture as they store it, BMP and GIF hold nothing that a PNG does
not.
"""

import struct
from abc import abstractmethod
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar, Final, Self

import numpy as np
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.image.formats.edit import Edit, Encoded
from refine_ops.image.formats.native import Model, Native, check_size, with_channels

_EXIF: Final = b"Exif\0\0"
_MODELS: Final[dict[str, Model]] = {"L": "grey", "LA": "grey", "I;16": "grey", "RGB": "rgb", "RGBA": "rgb"}
_C2PA_BOX: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_USUAL_PRIMARIES, _USUAL_TRANSFERS = (1, 2), (1, 2, 6, 13)
"""BT.709 or unsaid; BT.709, unsaid, BT.601, sRGB (ITU-T H.273)."""


@dataclass(frozen=True, slots=True, eq=False)
class OtherFile(ParsedFile):
    """A file that Pillow decodes; what it would decode to fewer bits or in other colours is refused."""

    pillow: ClassVar[str]
    """What Pillow calls the format."""

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        return cls(data, name)

    def decode(self, limits: ImageLimits) -> Native:
        try:
            self.check_kept(limits)
            with self.opened() as image:
                check_size(image.width, image.height, self.name, limits)
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise ItemError(
                        "image.multi_frame", f"{self.name}: {frames} frames in one {self.pillow}; give one alone"
                    )
                icc = image.info.get("icc_profile") or self.profile()
                block = bytes(image.info.get("exif") or b"").removeprefix(_EXIF)
                plain = image if image.mode in _MODELS else _plain(image, self.name)
                samples, mode = with_channels(np.array(plain)), plain.mode
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise ItemError(
                "image.truncated", f"{self.name}: damaged {self.pillow} ({error}); export it again"
            ) from error
        return Native(samples, _MODELS[mode], mode.endswith("A"), exif.orientation(block), icc)

    def opened(self) -> Image.Image:
        """By Pillow; nothing but the header is read."""
        return Image.open(BytesIO(self.data), formats=[self.pillow])

    @abstractmethod
    def check_kept(self, limits: ImageLimits) -> None:
        """Whether Pillow's samples are all that the file holds.

        Raises:
            ItemError: `image.unsupported`, `image.too_large`.
        """

    def profile(self) -> bytes | None:
        """An ICC profile that Pillow does not read."""
        return None

    def decode_independently(self, limits: ImageLimits) -> tuple[Native, str]:
        return self.decode(limits), "Pillow"

    def edit(self, edit: Edit) -> Encoded:
        raise self.not_edited()

    def with_xmp(self, packet: bytes) -> bytes:
        raise self.not_edited()

    def not_edited(self) -> ItemError:
        return ItemError(
            "image.unsupported",
            f"{self.name}: {self.pillow} is read, not edited in place; set write.output_format to 'png' (or "
            "'webp-lossless', 8 bits), or convert it",
        )

    def metadata(self) -> list[tuple[str, bytes]]:
        return []

    def credentials(self) -> list[tuple[str, bytes]]:
        return [("uuid", _C2PA_BOX)] if _C2PA_BOX in self.data else []

    def exif(self) -> bytes | None:
        found = self._info("exif")
        return found.removeprefix(_EXIF) if found else None

    def xmp(self) -> bytes | None:
        return self._info("xmp")

    def _info(self, key: str) -> bytes | None:
        try:
            with self.opened() as image:
                found = image.info.get(key)
        except (OSError, SyntaxError, ValueError) as error:
            raise ItemError("image.truncated", f"{self.name}: damaged {self.pillow} ({error})") from error
        return bytes(found) if found else None

    def _check_colours(self, primaries: int, transfer: int) -> None:
        if primaries not in _USUAL_PRIMARIES or transfer not in _USUAL_TRANSFERS:
            raise self._refused(f"colours that are not sRGB's (primaries {primaries}, transfer {transfer})")

    def _refused(self, what: str) -> ItemError:
        return ItemError("image.unsupported", f"{self.name}: {self.pillow} with {what}; convert it to a 16-bit PNG")


@dataclass(frozen=True, slots=True, eq=False)
class BmpFile(OtherFile):
    format = "bmp"
    pillow = "BMP"
    suffix = ".bmp"
    reads = "BMP (converted)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:2] == b"BM" and data[6:10] == bytes(4)

    def check_kept(self, limits: ImageLimits) -> None:
        """Pillow reads every depth that it accepts in full."""


@dataclass(frozen=True, slots=True, eq=False)
class GifFile(OtherFile):
    format = "gif"
    pillow = "GIF"
    suffix = ".gif"
    reads = "GIF (one frame, converted)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:6] in (b"GIF87a", b"GIF89a")

    def check_kept(self, limits: ImageLimits) -> None:
        """A palette of 8 bits a channel."""


@dataclass(frozen=True, slots=True, eq=False)
class AvifFile(OtherFile):
    format = "avif"
    pillow = "AVIF"
    suffix = ".avif"
    reads = "AVIF (8 bits, converted)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[4:12] in (b"ftypavif", b"ftypavis") or b"avif" in general_brands(data)

    def check_kept(self, limits: ImageLimits) -> None:
        """10 and 12 bits become 8 in Pillow, and colours of HDR and wide gamuts are not told apart."""
        at = self.data.find(b"av1C")
        if at >= 0 and self.data[at + 6 : at + 7] and self.data[at + 6] & 0x40:
            raise self._refused("10 or 12 bits")
        at = self.data.find(b"colrnclx")
        if at >= 0:
            self._check_colours(*struct.unpack_from(">HH", self.data, at + 8))


@dataclass(frozen=True, slots=True, eq=False)
class HeicFile(OtherFile):
    """libheif turns the picture as the file says, so that it is upright; its EXIF block then says so too."""

    format = "heic"
    pillow = "HEIF"
    suffix = ".heic"
    reads = "HEIC (8 bits, converted; extra `heic`)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[4:11] in (b"ftyphei", b"ftyphev") or bool(general_brands(data) & {b"heic", b"heix", b"hevc"})

    def opened(self) -> Image.Image:
        register_heif(self.name)
        return Image.open(BytesIO(self.data), formats=[self.pillow])

    def check_kept(self, limits: ImageLimits) -> None:
        """10 and 12 bits become 8 in Pillow, and colours of HDR and wide gamuts are told by a profile alone."""
        with self.opened() as image:
            depth, colours = image.info.get("bit_depth", 8), image.info.get("nclx_profile")
            profile = image.info.get("icc_profile")
        if depth > 8:
            raise self._refused(f"{depth} bits")
        if colours and not profile:
            self._check_colours(int(colours["color_primaries"]), int(colours["transfer_characteristics"]))


@dataclass(frozen=True, slots=True, eq=False)
class Jpeg2000File(OtherFile):
    format = "jpeg2000"
    pillow = "JPEG2000"
    suffix = ".jp2"
    reads = "JPEG 2000 (8 bits, 16 grey, converted)"

    @classmethod
    def claims(cls, data: bytes) -> bool:
        return data[:8] == b"\0\0\0\x0cjP  " or data[:4] == _CODESTREAM

    def check_kept(self, limits: ImageLimits) -> None:
        """Colours of more than 8 bits become 8 in Pillow; 9 to 15 bits of grey are shifted."""
        at = self.data.index(_CODESTREAM)
        right, bottom, left, top = struct.unpack_from(">4I", self.data, at + 8)
        check_size(right - left, bottom - top, self.name, limits)  # a header box may say less
        (count,) = struct.unpack_from(">H", self.data, at + 40)
        depths = {self.data[at + 42 + 3 * index] + 1 for index in range(count)}
        if depths not in ({8}, {16}) or (depths == {16} and count > 1):
            raise self._refused(f"{count} channels of {sorted(depths)} bits")
        method, space = self._colour()
        if method == 1 and int.from_bytes(space[:4], "big") not in (16, 17, 18):
            raise self._refused("colours that are not sRGB's")

    def profile(self) -> bytes | None:
        method, held = self._colour()
        return held if method == 2 else None

    def _colour(self) -> tuple[int, bytes]:
        """The method of the colour box (1: by number, 2: a profile; 0: there is none), and what it holds."""
        at = self.data.find(b"colr", 0, max(0, self.data.find(_CODESTREAM)))
        if at < 4:
            return 0, b""
        size = int.from_bytes(self.data[at - 4 : at], "big")
        return self.data[at + 4], self.data[at + 7 : at - 4 + size]


def general_brands(data: bytes) -> set[bytes]:
    """What a file of ISO's general kind (`mif1`) says that it is compatible with; nothing of any other file."""
    if data[4:12] != b"ftypmif1":
        return set()
    size = min(int.from_bytes(data[:4], "big"), 256)
    return {data[at : at + 4] for at in range(16, size, 4)}


def register_heif(name: str) -> None:
    """Teach Pillow HEIC.

    Raises:
        ItemError: `image.unsupported`: the extra is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ItemError(
            "image.unsupported",
            f"{name}: a HEIC, as phones take it, needs the extra: pip install 'refine-ops[heic]', and "
            "write.output_format 'png'; or convert it to PNG or JPEG",
        ) from error
    # One thread each: what reads pictures has its own.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _plain(image: Image.Image, name: str) -> Image.Image:
    """Bits, palettes and palettes with transparency as what they show."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    raise ItemError("image.unsupported", f"{name}: Pillow reads it as {image.mode}; convert it to PNG")
