"""Whether the text can be read: OCR of the object box against what should stand there."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refine_ops.eval.metrics.metric import CaseBatch, Meter, Metric, MissingMeter, Scores
from refine_ops.judge.evidence.text import Reader, absent_packages, accuracy, joined, open_reader

TEXT = Metric("text", 1, "text", "higher", "text", "1 - edit distance / length of the longer, letter case ignored")


@dataclass(frozen=True, slots=True)
class TextMeter:
    """Reads with rapidocr's bundled models on the CPU; only cases that state their text have a score."""

    reader: Reader
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
        return joined(self.reader.read(image))


def text_meter() -> Meter:
    """The OCR meter, or what stands for it where its packages are absent."""
    reader = open_reader()
    if reader is None:
        absent = ", ".join(absent_packages())
        return MissingMeter((TEXT,), f"absent packages: {absent}; pip install 'refine-ops[eval]'")
    return TextMeter(reader)
