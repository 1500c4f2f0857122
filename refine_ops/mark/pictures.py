"""Images as the page shows them: upright, sRGB, no larger than a screen needs; the coordinates stay native."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from PIL import Image, ImageOps

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError
from refine_ops.image.formats.table import header_pixels, sniff
from refine_ops.image.read import decode_rgb
from refine_ops.image.reference import decode_visible
from refine_ops.records import Box, Mask, U8Image

VIEW_PX: Final = 2048
THUMB_PX: Final = 320
_QUALITY: Final = 90
_KEPT_BYTES: Final = 96 << 20
_WHOLE_PIXELS: Final = 60_000_000
_SHRUNK_AT_ONCE: Final = 2


class ShownPictures:
    """Previews by image, the latest kept within `_KEPT_BYTES`. At most one image and two small pictures are decoded
    at a time: one of 200 MP takes 600 MB, and what is looked at does not wait for a grid of thumbnails."""

    def __init__(self, limits: ImageLimits) -> None:
        self.limits = limits
        self._decoding, self._shrinking = threading.Lock(), threading.Semaphore(_SHRUNK_AT_ONCE)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._sizes: dict[str, tuple[str, tuple[int, int]]] = {}
        self._whole: tuple[str, str, U8Image] | None = None

    def size(self, uri: str) -> tuple[int, int]:
        """(width, height) of the upright image. Raises: ItemError -- as `decode_rgb`."""
        identity = storage.identity(uri)
        known = self._sizes.get(uri)
        if known is None or known[0] != identity:
            self.view(uri)
            known = self._sizes.get(uri)
        if known is None or known[0] != identity:
            rgb = self._decoded(uri)
            return rgb.shape[1], rgb.shape[0]
        return known[1]

    def view(self, uri: str) -> bytes:
        """JPEG of the whole image, at most `VIEW_PX` wide and high. Raises: ItemError -- as a run would refuse it."""
        return self._remembered(("view", uri, storage.identity(uri)), lambda: _jpeg(self._decoded(uri), VIEW_PX))

    def thumb(self, uri: str) -> bytes:
        """JPEG of at most `THUMB_PX`. Raises: ItemError."""
        return self._remembered(("thumb", uri, storage.identity(uri)), lambda: self._thumb(uri))

    def detail(self, uri: str, box: Box) -> bytes:
        """JPEG of a part, in native pixels unless that is more than `VIEW_PX`. Raises: ItemError."""
        x0, y0, x1, y1 = box
        part = self._decoded(uri)[max(0, y0) : y1, max(0, x0) : x1]
        if not part.size:
            raise ItemError("box.outside", f"{uri}: {box} shows nothing of the image")
        return _jpeg(np.ascontiguousarray(part), VIEW_PX)

    def reference(self, uri: str) -> bytes:
        """JPEG of a reference of at most `THUMB_PX`. Raises: ItemError."""

        def made() -> bytes:
            with self._shrinking:
                data = storage.read(uri, self.limits.max_bytes)
                return _jpeg(decode_visible(data, name=uri, limits=self.limits), THUMB_PX)

        return self._remembered(("reference", uri, storage.identity(uri)), made)

    def _thumb(self, uri: str) -> bytes:
        with self._shrinking:
            data = storage.read(uri, self.limits.max_bytes)
            if sniff(data) == "jpeg" and 0 < header_pixels(data) <= self.limits.max_pixels:
                try:  # libjpeg decodes an eighth of the size in a tenth of the time: 28 instead of 240 ms at 12 MP
                    with Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
                        opened.draft("RGB", (THUMB_PX, THUMB_PX))
                        return _jpeg(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")), THUMB_PX)
                except (OSError, ValueError, SyntaxError):
                    pass  # decoding it as a run does says why
            return _jpeg(decode_rgb(data, name=uri, limits=self.limits), THUMB_PX)

    def _decoded(self, uri: str) -> U8Image:
        identity = storage.identity(uri)
        with self._decoding:
            whole = self._whole
            if whole is not None and whole[:2] == (uri, identity):
                return whole[2]
            data = storage.read(uri, self.limits.max_bytes)
            rgb = decode_rgb(data, name=uri, limits=self.limits)
        self._sizes[uri] = (identity, (rgb.shape[1], rgb.shape[0]))
        self._whole = (uri, identity, rgb) if rgb.shape[0] * rgb.shape[1] <= _WHOLE_PIXELS else None
        return rgb

    def _remembered(self, key: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = make()
        with self._lock:
            self._kept[key] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return data


def _fitted_size(size: tuple[int, int], most_px: int) -> tuple[int, int]:
    scale = min(1.0, most_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _jpeg(rgb: U8Image, most_px: int) -> bytes:
    size = _fitted_size((rgb.shape[1], rgb.shape[0]), most_px)
    small = rgb if size == (rgb.shape[1], rgb.shape[0]) else cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(small)).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def overlay_png(mask: Mask) -> bytes:
    """A mask as PNG of the view's size: white and opaque where it marks, else transparent."""
    size = _fitted_size((mask.shape[1], mask.shape[0]), VIEW_PX)
    alpha = np.ascontiguousarray(mask).view(np.uint8) * np.uint8(255)
    if size != (mask.shape[1], mask.shape[0]):
        alpha = np.where(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) > 0, 255, 0).astype(np.uint8)
    out = io.BytesIO()
    white = np.full_like(alpha, 255)
    Image.merge("LA", [Image.fromarray(white), Image.fromarray(alpha)]).save(out, "PNG", compress_level=1)
    return out.getvalue()
