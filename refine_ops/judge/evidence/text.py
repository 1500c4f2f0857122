"""Whether text reads as well as before: OCR of the region against what was asked for, or by its own confidence.

What should be read is what the prompt quotes, else what the reference shows. Where neither says so, the confidence of
what is read counts, weighted by its letters. Reading costs more than all other evidence together, so it is left out
where neither quotes nor a reader ask for it.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np

from refine_ops.records import Mask, U8Image

READ_HEIGHT_PX: Final = 96
"""Regions lower than this are enlarged before reading; the detector misses small letters."""
_FRAME_PX: Final = 16
_SURE: Final = 0.6
"""Least confidence of a reference's reading for it to say what should be there."""
_LEAST_LETTERS: Final = 2
_QUOTED: Final = re.compile(r"[\"\u201c\u201e]([^\"\u201c\u201d\u201e]{1,200})[\"\u201c\u201d]")

Line = tuple[str, float]
"""What was read, and its confidence in [0, 1]."""


class Reader(Protocol):
    """What reads text; safe in several threads."""

    def read(self, image: U8Image) -> list[Line]:
        """The lines of `uint8 (h, w, 3)`, in reading order; empty if there is none."""


@dataclass(frozen=True, slots=True)
class OcrReader:
    """Reads with rapidocr's bundled models on the CPU."""

    engine: Any

    def read(self, image: U8Image) -> list[Line]:
        scale = max(1.0, READ_HEIGHT_PX / image.shape[0])
        enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(enlarged, *(_FRAME_PX,) * 4, cv2.BORDER_REPLICATE)
        found = self.engine(framed[:, :, ::-1])
        return [(text, float(score)) for text, score in zip(found.txts or (), found.scores or (), strict=True)]


def absent_packages() -> list[str]:
    """What is not installed of what reading needs; `pip install 'refine-ops[eval]'` brings it."""
    return [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]


def open_engine(settings: Mapping[str, Any] | None = None) -> Any:
    """rapidocr with the models in its wheel, upright text only; `settings` by its own dotted names are added.

    Raises:
        ImportError: `absent_packages` names what is not installed.
    """
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error", "Global.use_cls": False, **(settings or {})})


def open_reader() -> OcrReader | None:
    """The OCR reader, or None where its packages are absent."""
    return None if absent_packages() else OcrReader(open_engine())


def quoted(prompt: str) -> str:
    """All that stands in quotation marks, joined by blanks."""
    return " ".join(_QUOTED.findall(prompt))


def accuracy(read: str, expected: str) -> float:
    """1 - edit distance / length of the longer; spaces and letter case do not count."""
    a, b = ("".join(text.casefold().split()) for text in (read, expected))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return 1 - row[-1] / max(len(a), len(b), 1)


def measure_text(
    before: U8Image, after: U8Image, mask: Mask, reader: Reader, prompt: str = "", reference: U8Image | None = None
) -> tuple[float, float] | None:
    """How well the mask's box reads before and after, in [0, 1]; None where there is no text to speak of."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    cut = np.s_[y : y + height, x : x + width]
    expected = quoted(prompt) or (_certain(reader.read(reference[cut])) if reference is not None else "")
    was, now = (reader.read(np.ascontiguousarray(image[cut])) for image in (before, after))
    if expected:
        return accuracy(joined(was), expected), accuracy(joined(now), expected)
    if _letters(was) < _LEAST_LETTERS:
        return None
    return _confidence(was), _confidence(now)


def joined(lines: Sequence[Line]) -> str:
    """All that was read."""
    return " ".join(text for text, _ in lines)


def _certain(lines: Sequence[Line]) -> str:
    sure = [line for line in lines if line[1] >= _SURE]
    return joined(sure) if _letters(sure) >= _LEAST_LETTERS else ""


def _letters(lines: Sequence[Line]) -> int:
    return sum(character.isalnum() for text, _ in lines for character in text)


def _confidence(lines: Sequence[Line]) -> float:
    count = sum(len(text) for text, _ in lines)
    return sum(len(text) * sure for text, sure in lines) / count if count else 0.0
