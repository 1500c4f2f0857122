"""SAM 3 (box and text) and SAM 2 (box) through transformers."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from refine_ops.detect.config import SamSegmentation
from refine_ops.detect.segment import Segmented, iou
from refine_ops.errors import ItemError, JobError
from refine_ops.model.pretrained import load, pick_device, transformers_class
from refine_ops.records import Box, Mask, U8Image

_CLASSES = {"sam3": ("Sam3Model", "Sam3Processor"), "sam2": ("Sam2Model", "Sam2Processor")}


class Sam:
    """Implements `Segmenter` with the checkpoint's own generation of SAM.

    In float32 everywhere: its processor gives float32 boxes, which SAM 3's geometry encoder refuses beside bfloat16.
    """

    def __init__(self, settings: SamSegmentation, rank: int = 0) -> None:
        self._settings, self._device = settings, pick_device(rank)
        kind = load(transformers_class("AutoConfig"), settings.model, settings.allow_hub).model_type
        self._kind = "sam3" if kind.startswith("sam3") else "sam2" if kind.startswith("sam2") else kind
        if self._kind not in _CLASSES:
            raise JobError(f"model {settings.model!r} is a {kind!r}; expected a sam2 or sam3 checkpoint")
        model, processor = (transformers_class(name) for name in _CLASSES[self._kind])
        self._processor = load(processor, settings.model, settings.allow_hub)
        self._model = load(model, settings.model, settings.allow_hub, weights=True, half=False).to(self._device).eval()

    @property
    def name(self) -> str:
        return f"{self._settings.model} ({self._kind})"

    def segment(self, image: U8Image, box: Box, description: str) -> Segmented:
        found = self._sam3(image, box, description) if self._kind == "sam3" else self._sam2(image, box)
        if not found.mask.any():
            raise ItemError("segment.nothing", f"{self.name}: an empty mask for box {box}")
        return found

    def _sam3(self, image: U8Image, box: Box, description: str) -> Segmented:
        """Of all instances of the phrase, the one whose mask fits the box best.

        Ambiguity is the best overlap with the box of any instance that hardly overlaps the chosen one, relative to the
        chosen one's overlap: two neighbours in one box make it large, a second detection of the same object does not.
        """
        inputs = self._inputs(image, text=description, input_boxes=[[list(box)]], input_boxes_labels=[[1]])
        outputs = self._run(inputs)
        results = self._processor.post_process_instance_segmentation(
            outputs, threshold=self._settings.threshold, target_sizes=[image.shape[:2]]
        )[0]
        masks = [m.cpu().numpy().astype(bool) for m in results["masks"]]
        fits = [_box_fit(m, box) for m in masks]
        if not masks or max(fits) == 0:
            raise ItemError("segment.nothing", f"{self.name}: no instance of {description!r} in box {box}")
        best = int(np.argmax(fits))
        rivals = [fit for mask, fit in zip(masks, fits, strict=True) if iou(mask, masks[best]) < 0.5]
        return Segmented(masks[best], float(results["scores"][best]), max(rivals, default=0.0) / fits[best])

    def _sam2(self, image: U8Image, box: Box) -> Segmented:
        """Of SAM's three readings of the box, the one it scores best; ambiguity is how far a rival it scores about
        as well (within 0.1) differs from it."""
        inputs = self._inputs(image, input_boxes=[[list(box)]])
        sizes = inputs["original_sizes"].cpu()
        outputs = self._run(inputs, multimask_output=True)
        masks = self._processor.post_process_masks(outputs.pred_masks.float().cpu(), sizes)[0][0].numpy().astype(bool)
        scores = outputs.iou_scores[0, 0].float().cpu().numpy()
        best = int(scores.argmax())
        rivals = [1 - iou(m, masks[best]) for m, s in zip(masks, scores, strict=True) if s > scores[best] - 0.1]
        return Segmented(masks[best], float(scores[best]), max(rivals))

    def _inputs(self, image: U8Image, **prompts: Any) -> Any:
        return self._processor(images=Image.fromarray(image), return_tensors="pt", **prompts).to(self._device)

    def _run(self, inputs: Any, **options: Any) -> Any:
        inputs = {k: v for k, v in inputs.items() if k != "original_sizes"}
        with torch.inference_mode():
            return self._model(**inputs, **options)


def _box_fit(mask: Mask, box: Box) -> float:
    """How well a mask fills the box without leaving it: IoU of the mask's tight box with `box`."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return 0.0
    tight = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    width = min(tight[2], box[2]) - max(tight[0], box[0])
    height = min(tight[3], box[3]) - max(tight[1], box[1])
    common = max(0, width) * max(0, height)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (tight, box)]
    return float(common / (sum(areas) - common))
