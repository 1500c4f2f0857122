"""Closed models as methods: an OpenAI-compatible `images/edits` endpoint, asked once per input and never again."""

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import httpx
import numpy as np

from refine_ops import PIXEL_VERSION, storage
from refine_ops.config import ImageLimits, cache_folder, images_endpoint
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.config import EndpointMethod
from refine_ops.eval.methods.method import MethodOutput, digest_of
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode
from refine_ops.records import Mask, U8Image
from refine_ops.vlm.patient import EndpointDown, ask_patiently

logger = logging.getLogger(__name__)

_TOO_LARGE: Final = 64 << 20
"""Bytes of an answer, at most."""


@dataclass(slots=True)
class Spent:
    """What a method asked for: images paid, images that were cached, requests made again, and US dollars (None: no
    price is set)."""

    images: int = 0
    cached: int = 0
    retries: int = 0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Where an image lies in the picture that is sent: resized to `inner` (width, height), mirrored out to `size`."""

    size: tuple[int, int]
    inner: tuple[int, int]
    edges: tuple[int, int, int, int]

    @classmethod
    def to(cls, image: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> "_Fitted":
        ratio = image[0] / image[1]
        size = min(sizes, key=lambda wh: abs(np.log(wh[0] / wh[1] / ratio)))
        scale = min(size[0] / image[0], size[1] / image[1])
        inner = min(size[0], round(image[0] * scale)), min(size[1], round(image[1] * scale))
        right, below = size[0] - inner[0], size[1] - inner[1]
        return cls(size, inner, (below // 2, below - below // 2, right // 2, right - right // 2))

    def sent(self, picture: U8Image) -> U8Image:
        how = cv2.INTER_AREA if picture.shape[1] > self.inner[0] else cv2.INTER_CUBIC
        resized = cv2.resize(picture, self.inner, interpolation=how)
        return np.asarray(cv2.copyMakeBorder(resized, *self.edges, cv2.BORDER_REFLECT), np.uint8)

    def marked(self, mask: Mask) -> U8Image:
        """RGBA, transparent where the image is to change, as the protocol has it."""
        inner = cv2.resize(mask.astype(np.uint8), self.inner, interpolation=cv2.INTER_NEAREST)
        open_ = cv2.copyMakeBorder(inner, *self.edges, cv2.BORDER_CONSTANT, value=0)
        rgba = np.zeros((*open_.shape, 4), np.uint8)
        rgba[..., 3] = 255 * (1 - open_)
        return rgba

    def back(self, made: U8Image, image: tuple[int, int]) -> U8Image:
        top, _, left, _ = self.edges
        inner = made[top : top + self.inner[1], left : left + self.inner[0]]
        how = cv2.INTER_AREA if image[0] < self.inner[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(np.ascontiguousarray(inner), image, interpolation=how), np.uint8)


class EditEndpoint:
    """Implements `Method`. The whole image goes out with the instruction; nothing outside the region is promised."""

    def __init__(self, config: EndpointMethod, limits: ImageLimits) -> None:
        """
        Raises:
            JobError: no endpoint or model is named.
        """
        base_url, self._key, model = images_endpoint()
        base_url, model = config.base_url or base_url, config.model or model
        if not base_url or not model:
            raise JobError(
                f"{config.name}: no images endpoint: set REFINE_IMAGES_BASE_URL and REFINE_IMAGES_MODEL (and "
                "REFINE_IMAGES_API_KEY), or base_url and model of the method"
            )
        self._config, self._limits, self._model = config, limits, model
        self._url = base_url.rstrip("/") + "/images/edits"
        self._cache = config.cache or str(cache_folder() / "images")
        self.spent = Spent()

    @property
    def digest(self) -> str:
        asked = self._config.model_dump(
            mode="json", exclude={"timeout_s", "requests", "backoff_s", "cache", "usd_per_image"}
        )
        return digest_of({"method": asked, "url": self._url, "model": self._model, "pixels": PIXEL_VERSION})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        """
        Raises:
            EndpointDown: it does not answer, or refuses URL, key or model.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with httpx.Client(headers=headers, timeout=self._config.timeout_s, follow_redirects=False) as client:
            made = [self._edited(client, i) for i in inputs]
        cost = "" if self.spent.usd is None else f", {self.spent.usd:.2f} USD"
        logger.info(
            "%s: %d images asked for, %d cached%s", self._config.name, self.spent.images, self.spent.cached, cost
        )
        return made

    def _edited(self, client: httpx.Client, loaded: LoadedInput) -> MethodOutput | ItemError:
        height, width = loaded.image.shape[:2]
        fitted = _Fitted.to((width, height), self._config.sizes)
        try:
            data = self._answer(client, *self._form(loaded, fitted))
            made = decode(data, name=f"{self._config.name}'s answer", limits=self._limits).rgb
            if (made.shape[1], made.shape[0]) != fitted.size:
                raise ItemError(
                    "endpoint.size",
                    f"{self._config.name} made {made.shape[1]}x{made.shape[0]}, asked for {fitted.size[0]}x"
                    f"{fitted.size[1]}; name the sizes that it makes in the method's `sizes`",
                )
        except ItemError as e:
            return e
        return MethodOutput(encode_png(fitted.back(made, (width, height))))

    def _form(self, loaded: LoadedInput, fitted: _Fitted) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
        """Fields and files of the request, in the order in which they are sent."""
        config = self._config
        fields = {
            "model": self._model,
            "prompt": config.prompt.replace("{instruction}", loaded.item.instruction),
            "size": f"{fitted.size[0]}x{fitted.size[1]}",
            "n": "1",
            **{
                name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in config.extra.items()
            },
        }
        pictures = [fitted.sent(loaded.image)]
        if config.reference and loaded.reference is not None:
            pictures.append(loaded.reference)
        files = [("image" if len(pictures) == 1 else "image[]", encode_png(picture)) for picture in pictures]
        if config.mask:
            files.append(("mask", encode_png(fitted.marked(loaded.mask))))
        return fields, files

    def _answer(self, client: httpx.Client, fields: dict[str, str], files: list[tuple[str, bytes]]) -> bytes:
        """The image file that was answered, now or once before."""
        asked = [self._url, fields, [[name, storage.sha256(data)] for name, data in files]]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        uri = storage.join(storage.resolve(self._cache), key[:2], f"{key}.img")
        try:
            data = storage.read(uri, _TOO_LARGE)
        except storage.Missing:
            pass
        else:
            self.spent.cached += 1
            return data
        parts = [(name, (f"{i}.png", data, "image/png")) for i, (name, data) in enumerate(files)]
        send = lambda: client.post(self._url, data=fields, files=parts)  # noqa: E731
        data = self._read(ask_patiently(send, self._config, self._config.name, self._retried))
        storage.write(uri, data)
        self.spent.images += 1
        if self._config.usd_per_image is not None:
            self.spent.usd = self.spent.images * self._config.usd_per_image
        return data

    def _retried(self) -> None:
        self.spent.retries += 1

    def _read(self, response: httpx.Response) -> bytes:
        """
        Raises:
            EndpointDown: 401, 403, 404 and the like: configuration, not the input.
            ItemError: `endpoint.refused` (400, 413, 422), `endpoint.unreadable`.
        """
        name, said = self._config.name, response.text[:300] if len(response.content) < _TOO_LARGE else "a large answer"
        if response.status_code in (400, 413, 422):
            raise ItemError("endpoint.refused", f"{name}: HTTP {response.status_code}: {said}")
        if not response.is_success:
            raise EndpointDown(f"{name}: HTTP {response.status_code}: {said}; check URL, key and model")
        if len(response.content) > _TOO_LARGE:
            raise ItemError("endpoint.unreadable", f"{name}: an answer of {len(response.content):,} bytes")
        try:
            entry: dict[str, Any] = response.json()["data"][0]
            # A link instead of the picture is not followed: nothing is fetched that nobody named.
            return base64.b64decode(entry["b64_json"], validate=True)
        except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as e:
            raise ItemError(
                "endpoint.unreadable",
                f"{name}: expected data[0].b64_json, got {said[:120]!r}; ask for base64 by `extra`",
            ) from e
