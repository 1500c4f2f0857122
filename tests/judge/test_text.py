"""Evidence of text, read by the real OCR where it is installed."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from refine_ops.eval.gates.planted import plant
from refine_ops.judge.evidence.text import Line, Reader, measure_text, open_reader, quoted
from refine_ops.records import U8Image

MASK = np.zeros((120, 320), np.bool_)
MASK[20:100, 16:304] = True


@dataclass
class Remembering:
    """Reads a picture once, however often it is measured: each reading takes a second."""

    reader: Reader
    known: dict[bytes, list[Line]] = field(default_factory=dict)

    def read(self, image: U8Image) -> list[Line]:
        key = repr(image.shape).encode() + image.tobytes()
        if key not in self.known:
            self.known[key] = self.reader.read(image)
        return self.known[key]


@pytest.fixture(scope="module")
def reader() -> Reader:
    found = open_reader()
    assert found is not None, "the test extra brings rapidocr"
    return Remembering(found)


def sign(text: str) -> U8Image:
    image = np.full((120, 320, 3), 225, np.uint8)
    cv2.putText(image, text, (30, 75), cv2.FONT_HERSHEY_DUPLEX, 1.4, (30, 30, 60), 3, cv2.LINE_AA)
    return image


@pytest.mark.parametrize(
    ("prompt", "text"),
    [('the word "Harbour 42" again', "Harbour 42"), ("„Kaffee“ und “Tee”", "Kaffee Tee"), ("no text, it's plain", "")],
)
def test_what_a_prompt_quotes(prompt: str, text: str) -> None:
    assert quoted(prompt) == text


@pytest.mark.long
def test_text_that_reads_worse_is_seen_with_and_without_a_quotation(reader: Reader) -> None:
    clean = sign("Harbour 42")
    worse = plant("blurred", clean, MASK, clean, np.random.default_rng(1))
    worse = np.asarray(cv2.GaussianBlur(worse, (0, 0), 6), np.uint8)
    wrong = sign("Hurboar 17")
    for prompt, reference in (('the text "Harbour 42"', None), ("", clean)):
        for after in (worse, wrong):
            found = measure_text(clean, after, MASK, reader, prompt, reference)
            assert found is not None
            assert found[0] > 0.9
            assert found[1] < 0.8
        better = measure_text(wrong, clean, MASK, reader, prompt, reference)
        assert better is not None
        assert better[1] > better[0] + 0.2
    alone = measure_text(clean, worse, MASK, reader)
    assert alone is not None
    assert alone[1] < alone[0]


@pytest.mark.long
def test_a_region_without_text_has_no_evidence_of_text(reader: Reader) -> None:
    plain = np.full((120, 320, 3), 128, np.uint8)
    assert measure_text(plain, plain, MASK, reader, "make it nice") is None
