"""Writing a set's images: PNG, encoded and stored by a few threads while the next sample is made."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from refine_ops import storage
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import Mask, U8Image

_PNG_LEVEL = 1
"""A quarter of the default level's time for about a tenth more bytes."""
_THREADS = 4
_AHEAD = 16
"""Images in memory that wait for the store."""


class ImageWriter:
    """Writes below `out` and gives the paths at once. Leaving the `with` block normally means all are durable."""

    def __init__(self, out: str) -> None:
        self._out = out
        self._pool = ThreadPoolExecutor(_THREADS)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.finish()

    def finish(self) -> None:
        """Wait until every image is stored. Raises JobError where one could not be."""
        while self._pending:
            self._pending.popleft().result()

    def own(self, kind: str, sample_id: str, image: U8Image | Mask) -> str:
        """An image of one sample, named by its id; written again it is the same."""
        fan = storage.sha256(sample_id.encode())[:2]
        return self._submit(f"images/{kind}/{fan}/{sample_id}.png", image, shared=False)

    def shared(self, kind: str, image: U8Image | Mask) -> str:
        """An image named by its pixels, so that the samples of one source share one file."""
        content = repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
        digest = hashlib.sha256(content).hexdigest()
        return self._submit(f"images/{kind}/{digest[:2]}/{digest[:32]}.png", image, shared=True)

    def _submit(self, path: str, image: U8Image | Mask, *, shared: bool) -> str:
        while len(self._pending) >= _AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(_store, storage.join(self._out, path), image, shared))
        return path


def _store(uri: str, image: U8Image | Mask, shared: bool) -> None:
    if not (shared and storage.exists(uri)):
        storage.write(uri, encode_png(image, _PNG_LEVEL))
