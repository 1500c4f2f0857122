"""Whether the text can be read: OCR of the object box against what should stand there."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from refine_ops.eval.metrics.metric import CaseBatch, Meter, Metric, MissingMeter, Scores

READ_HEIGHT_PX: Final = 96
"""Boxes lower than this are enlarged before reading; the detector misses small letters."""

TEXT = Metric("text", 1, "text", "higher", "text", "1 - edit distance / length of the longer, letter case ignored")


@dataclass(frozen=True, slots=True)
class TextMeter:
    """Reads with rapidocr's bundled models on the CPU; only cases that state their text have a score."""

    engine: Any
    metrics: tuple[Metric, ...] = (TEXT,)
    source: str = "rapidocr"
    repeatable: bool = True
    missing: str = ""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        if not batch.text:
            return {"text": np.full(len(batch), np.nan)}
        return {"text": np.array([accuracy(self.read(crop), batch.text) for crop in batch.crop(batch.outputs)])}

    def read(self, image: np.ndarray) -> str:
        """All text in `uint8 (h, w, 3)` RGB, in reading order; empty if there is none."""
        scale = max(1.0, READ_HEIGHT_PX / image.shape[0])
        enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(enlarged, 16, 16, 16, 16, cv2.BORDER_REPLICATE)
        found = self.engine(framed[:, :, ::-1])
        return " ".join(found.txts or ())


def text_meter() -> Meter:
    """The OCR meter, or what stands for it where its packages are absent."""
    absent = [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        return MissingMeter((TEXT,), f"absent packages: {', '.join(absent)}; pip install 'refine-ops[eval]'")
    from rapidocr import RapidOCR

    return TextMeter(RapidOCR(params={"Global.log_level": "error", "Global.use_cls": False}))


def accuracy(read: str, expected: str) -> float:
    """1 for the same characters, 0 for nothing in common; spaces and letter case do not count."""
    a, b = ("".join(text.casefold().split()) for text in (read, expected))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return 1 - row[-1] / max(len(a), len(b), 1)
