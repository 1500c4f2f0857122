"""Grounding DINO through transformers: boxes for noun phrases."""

from typing import Any

import torch
from PIL import Image

from refine_ops.detect.config import DinoGrounding
from refine_ops.detect.objects import Grounded
from refine_ops.errors import ItemError
from refine_ops.model.pretrained import load, pick_device, transformers_class
from refine_ops.records import Box, U8Image


class DinoGrounder:
    """Implements `Grounder`. Detects what is described, or else the configured labels.

    A pair's subject is the phrase found with the greatest product of confidences in both images; that the two are the
    same individual this model cannot tell, so pairs need a description.
    """

    def __init__(self, settings: DinoGrounding, rank: int = 0) -> None:
        self._settings, self._device = settings, pick_device(rank)
        self._processor = load(transformers_class("AutoProcessor"), settings.model, settings.allow_hub)
        cls = transformers_class("AutoModelForZeroShotObjectDetection")
        self._model = load(cls, settings.model, settings.allow_hub, weights=True, half=False).to(self._device).eval()

    @property
    def name(self) -> str:
        return self._settings.model

    def ground(self, target: U8Image, reference: U8Image | None, description: str) -> list[Grounded]:
        if reference is None:
            return self._detect(target, (description,) if description else self._settings.labels)
        if not description:
            raise ItemError("ground.no_description", f"{self.name}: a pair needs a 'description' to be detected by")
        best, shown = (self._detect(i, (description,))[0] for i in (target, reference))
        return [Grounded(best.box, description, best.confidence * shown.confidence, shown.box)]

    def _detect(self, image: U8Image, phrases: tuple[str, ...]) -> list[Grounded]:
        """Most confident first; at least one.

        Raises:
            ItemError: `ground.no_object`.
        """
        found = self._run(image, phrases)
        boxes = [_whole_pixels(box, image) for box in found["boxes"].tolist()]
        labels, scores = found["text_labels"], found["scores"].tolist()
        grounded = [
            Grounded(box, phrase, score)
            for box, label, score in zip(boxes, labels, scores, strict=False)  # no box comes with one empty label
            if box is not None and (phrase := _named(label, phrases)) is not None
        ]
        if not grounded:
            raise ItemError("ground.no_object", f"{self.name}: none of {phrases} above {self._settings.threshold}")
        return sorted(grounded, key=lambda g: (-g.confidence, g.box))

    def _run(self, image: U8Image, phrases: tuple[str, ...]) -> Any:
        text = ". ".join(p.lower().rstrip(".") for p in phrases) + "."
        inputs = self._processor(images=Image.fromarray(image), text=text, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        return self._processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self._settings.threshold,
            text_threshold=self._settings.text_threshold,
            target_sizes=[image.shape[:2]],
        )[0]


def _named(label: str, phrases: tuple[str, ...]) -> str | None:
    """The phrase a detection is about; the detector may merge several into one label, which then names none."""
    if len(phrases) == 1:
        return phrases[0]
    named = [p for p in phrases if p.lower() in label.lower()]
    return named[0] if len(named) == 1 else None


def _whole_pixels(box: list[float], image: U8Image) -> Box | None:
    """A detector's box may overhang the border by its regression error: the part inside the image, None if empty."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = max(0, round(box[0])), max(0, round(box[1])), min(width, round(box[2])), min(height, round(box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
