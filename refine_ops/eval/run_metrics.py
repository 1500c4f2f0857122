"""LPIPS and text accuracy of finished items, for the drift report: the numbers that need a model."""

from collections.abc import Iterable
from typing import Any, Final

import cv2
import numpy as np
import torch

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.metrics.metric import to_tensor
from refine_ops.eval.metrics.perceptual import MIN_SIDE_PX, lpips_network
from refine_ops.eval.metrics.text import TextMeter, text_meter
from refine_ops.eval.metrics.trunks import MissingWeights
from refine_ops.image.focus import crop_of
from refine_ops.judge.evidence.text import accuracy, quoted
from refine_ops.records import Box, Region, U8Image
from refine_ops.report.config import PerceptualSettings
from refine_ops.report.measure.from_models import write_modelled
from refine_ops.report.measure.pair import Pair, open_pair, raw_patch
from refine_ops.report.run_items import ReportedItem

_CONTEXT_PX: Final = 16
_DRIFT_CONTEXT_PX: Final = 128
_LONGEST_PX: Final = 1536
"""Larger crops are shrunk to this, which bounds memory."""


class RunMeter:
    """Holds the models.

    Raises:
        JobError: the weights or a package are not there.
    """

    def __init__(self, settings: PerceptualSettings) -> None:
        on_gpu = settings.device != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        try:
            self._lpips = lpips_network("alexnet", settings.weights, settings.allow_hub, self._device)
        except MissingWeights as e:
            raise JobError(f"perceptual: {e}".replace("metrics.", "perceptual.")) from e
        self._reader = text_meter() if settings.text else None
        if self._reader is not None and self._reader.missing:
            raise JobError(f"perceptual.text: {self._reader.missing}; or set perceptual.text to false")

    def measure(self, items: Iterable[ReportedItem], uri: str, limits: ImageLimits) -> int:
        """Write the regions' numbers to `uri` (`metrics.parquet`); returns how many regions were measured.

        What cannot be read is left out: the report says so itself.
        """
        rows: list[dict[str, Any]] = []
        for item in items:
            if item.status != "done":
                continue
            try:
                pair = open_pair(item, limits)
                if pair.comparable:
                    rows += [self._row(item, region, pair, limits) for region in item.regions]
            except ItemError:
                continue
        write_modelled(uri, rows)
        return len(rows)

    def _row(self, item: ReportedItem, region: Region, pair: Pair, limits: ImageLimits) -> dict[str, Any]:
        box = pair.grown_box(region.region_id, max(_CONTEXT_PX, pair.reach_px))
        before, after = (crop_of(image.rgb, box) for image in (pair.source, pair.output))
        return {
            "item_id": item.item_id,
            "region_id": region.region_id,
            "output_sha256": item.output_sha256,
            "raw_lpips": self._raw(item, region, pair, limits),
            "region_lpips": self._distance(before, after),
            "text_gain": self._text_gain(region.prompt, before, after),
        }

    def _raw(self, item: ReportedItem, region: Region, pair: Pair, limits: ImageLimits) -> float | None:
        """LPIPS between the crop and its raw patch, with the source's region put into the patch: the context's alone.
        For edits of another tool the patch is its output around the region; None where no patch was kept."""
        if item.drift_from_output:
            around = pair.grown_box(region.region_id, _DRIFT_CONTEXT_PX)
            box: Box | None = around
            patch: U8Image | None = crop_of(pair.output.rgb, around)
        else:
            box, patch = item.crops.get(region.region_id), raw_patch(item, region, limits)
        if box is None or patch is None:
            return None
        source = crop_of(pair.source.rgb, box)
        return self._distance(source, np.where(crop_of(pair.allowed, box)[..., None], source, patch))

    @torch.inference_mode()
    def _distance(self, first: U8Image, second: U8Image) -> float | None:
        if min(first.shape[:2]) < MIN_SIDE_PX:
            return None
        tensors = [to_tensor(_shrunk(image).copy()[None], self._device) for image in (first, second)]
        return float(self._lpips(*tensors, normalize=True).item())

    def _text_gain(self, prompt: str, before: U8Image, after: U8Image) -> float | None:
        """Accuracy after minus before, against the text that the prompt quotes; None where it quotes none."""
        expected = quoted(prompt)
        if not expected or not isinstance(self._reader, TextMeter):
            return None
        was, now = (accuracy(self._reader.read(image), expected) for image in (before, after))
        return now - was


def _shrunk(image: U8Image) -> U8Image:
    factor = _LONGEST_PX / max(image.shape[:2])
    if factor >= 1:
        return image
    shrunk: U8Image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return shrunk
