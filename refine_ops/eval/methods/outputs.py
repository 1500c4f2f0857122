"""Outputs that need no model: made elsewhere, or controls of known rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from refine_ops import PIXEL_VERSION, storage
from refine_ops.chain import refine_image
from refine_ops.config import ImageLimits, RefineSettings, WriteSettings
from refine_ops.data.stages.sample import damage
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.eval.config import Control, FolderMethod
from refine_ops.eval.methods.method import MethodOutput, digest_of, output_or_error
from refine_ops.eval.methods.refiner import as_item
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode
from refine_ops.model.transfer import TransferRefiner

_READ = ("png", "jpg", "jpeg", "webp", "tif", "tiff")


@dataclass(frozen=True, slots=True)
class FolderOutputs:
    """Outputs made elsewhere, found by input id."""

    config: FolderMethod
    limits: ImageLimits

    @property
    def digest(self) -> str:
        found = {uri: storage.identity(uri) for uri in storage.list_files(storage.resolve(self.config.folder))}
        return digest_of({"files": found, "resize": self.config.resize})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        return [output_or_error(self._find, i) for i in inputs]

    def _find(self, loaded: LoadedInput) -> MethodOutput:
        stem = storage.join(storage.resolve(self.config.folder), loaded.item.input_id)
        for suffix in _READ:
            uri = f"{stem}.{suffix}"
            if storage.exists(uri):
                return MethodOutput(self._fitted(uri, storage.read(uri, self.limits.max_bytes), loaded))
        raise ItemError("output.missing", f"{stem}.*: no output; expected one of {', '.join(_READ)}")

    def _fitted(self, uri: str, data: bytes, loaded: LoadedInput) -> bytes:
        image = decode(data, name=uri, limits=self.limits).rgb
        height, width = loaded.image.shape[:2]
        if image.shape == loaded.image.shape:
            return data
        if not self.config.resize:
            raise ItemError("output.size", f"{uri}: {image.shape[1]} x {image.shape[0]}, expected {width} x {height}")
        return encode_png(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True, slots=True)
class ControlOutputs:
    """What every metric must rank as expected.

    identity: the input's own bytes. ground-truth: the target. blurred-crop: the input's region blurred and pasted back
    with a clean seam. re-encode: the whole image as JPEG, quality 95. damaged: the region scrambled further. blank: it
    is painted grey. transfer: the registered reference where it fits, else the input's own bytes.
    """

    control: Control

    @property
    def digest(self) -> str:
        return digest_of({"control": self.control, "version": PIXEL_VERSION if self.control == "transfer" else 1})

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        return [MethodOutput(self._make(i)) for i in inputs]

    def _make(self, loaded: LoadedInput) -> bytes:
        image = loaded.image
        match self.control:
            case "identity":
                return loaded.data
            case "ground-truth":
                return encode_png(loaded.target)
            case "re-encode":
                return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            case "blurred-crop":
                return self._pasted(loaded, cv2.GaussianBlur(image, (0, 0), 6))
            case "damaged":
                small = cv2.resize(image, None, fx=1 / 12, fy=1 / 12, interpolation=cv2.INTER_AREA)
                height, width = image.shape[:2]
                return self._pasted(loaded, cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST))
            case "blank":
                return self._pasted(loaded, np.full_like(image, 128))
            case "transfer":
                return _transferred(loaded)

    @staticmethod
    def _pasted(loaded: LoadedInput, region: np.ndarray) -> bytes:
        height, width = loaded.mask.shape
        return encode_png(damage(loaded.image, loaded.mask, region, (0, 0, width, height))[0])


def _transferred(loaded: LoadedInput) -> bytes:
    item, files = as_item(loaded)
    try:
        settings = RefineSettings(write=WriteSettings(allow_unchanged=True))
        return refine_image(item, files, TransferRefiner(), settings).data
    except ItemError as e:
        if e.reason != "reference.unfit":
            raise
        return loaded.data
