"""Grades by a vision-language model (Table 2): it scores the expanded object crop on five dimensions.

It sees the crop before and after, and the instruction; it answers in JSON, which is read strictly: an answer that is
not five numbers in [1, 5] leaves the asking unscored, and an input without any readable answer has no score. Whether
the grader can be believed shows in the controls scored beside the methods (ground truth, input as it is, damaged,
blank) and in how far its scores move when the two pictures come in the other order.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import Field

from refine_ops.errors import ItemError
from refine_ops.eval.config import GraderSettings
from refine_ops.eval.metrics.metric import CaseBatch, Metric, Scores
from refine_ops.image.focus import crop_of
from refine_ops.records import Box, U8Image
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.local import LocalChat
from refine_ops.vlm.openai import OpenAiChat
from refine_ops.vlm.questions import Chat, Question, Reply

logger = logging.getLogger(__name__)
PROMPT_VERSION: Final = 1
INSTRUCTIONS: Final = """\
You grade local photo repairs. One region of a picture was damaged and somebody was asked to repair it.
You get two pictures of the same place, labelled BEFORE and AFTER, and the request. Grade AFTER alone; BEFORE only
tells you what was there to repair. AFTER may equal BEFORE (nothing was done) or be worse: say so in the grades.

Grades are numbers from 1 to 5, decimals allowed: 1 unusable, 2 poor, 3 acceptable with visible faults, 4 good, 5 no
fault to be found even when looking closely. The five grades are independent of each other:
- visual_quality: sharpness and freedom from noise, smearing, blocks, halos, seams and other artefacts.
- naturalness: light, colour, texture and geometry of the repaired place agree with its surroundings.
- aesthetics: how pleasing the place looks as part of a finished picture.
- detail: letters, strokes, edges and small structures are complete, correct and legible. Any malformed letter or
  broken line keeps this grade at 3 or below.
- faithfulness: the request was carried out, on the right object, and nothing else was altered.

In `fault`, name the worst visible fault of AFTER and where it is, in one sentence, before you settle on grades.
"""


_GRADE: Final[Any] = Field(ge=1, le=5, description="1 to 5")


class Grades(Reply):
    """The answer that is asked for."""

    fault: str
    visual_quality: float = _GRADE
    naturalness: float = _GRADE
    aesthetics: float = _GRADE
    detail: float = _GRADE
    faithfulness: float = _GRADE

    def as_array(self) -> Scores:
        return np.array([self.visual_quality, self.naturalness, self.aesthetics, self.detail, self.faithfulness])


def _dimension(name: str, label: str, meaning: str) -> Metric:
    return Metric(f"grade_{name}", PROMPT_VERSION, label, "higher", "grades", f"VLM grade, 1 to 5: {meaning}")


DIMENSIONS: Final = (
    _dimension("vq", "VQ", "visual quality"),
    _dimension("nat", "Nat.", "naturalness"),
    _dimension("aes", "Aes.", "aesthetics"),
    _dimension("det", "Det.", "fine-detail fidelity"),
    _dimension("faith", "Faith.", "instruction faithfulness"),
)
ORDER: Final = Metric(
    "grade_order", PROMPT_VERSION, "order effect", "lower", "grades",
    "mean |change of a grade| when AFTER is shown before BEFORE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GradeMeter:
    """Scores by a VLM. Answers are cached by the chat; what stayed unscored is asked again by the next run."""

    chat: Chat
    settings: GraderSettings
    repeatable: bool = False
    missing: str = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (*DIMENSIONS, ORDER) if self.settings.order_check else DIMENSIONS

    @property
    def source(self) -> str:
        s = self.settings
        return f"{self.chat.name}, {s.repeats} askings at temperature {s.temperature:g}, crop +{s.expand:g}"

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        """Scores of every input; NaN where no answer could be read.

        Raises:
            JobError: nobody answers, or every request is refused; the next run goes on where this one stopped.
        """
        grades = np.full((len(batch), len(DIMENSIONS)), np.nan)
        order = np.full(len(batch), np.nan)
        if batch.setting == "free" or self.settings.reference_based:
            for i in range(len(batch)):
                grades[i], order[i] = self._grade(batch, i)
        scores = {d.name: grades[:, n] for n, d in enumerate(DIMENSIONS)}
        return scores | ({ORDER.name: order} if self.settings.order_check else {})

    def _grade(self, batch: CaseBatch, i: int) -> tuple[Scores, float]:
        """Mean grades over the readable repeats, and the order effect."""
        region = _expanded(batch.box, batch.outputs.shape[1:3], self.settings.expand)
        before, after = (crop_of(images[i], region) for images in (batch.inputs, batch.outputs))
        repeats = [self._ask(batch.instruction, before, after, repeat) for repeat in range(self.settings.repeats)]
        readable = [r for r in repeats if r is not None]
        if not readable:
            return np.full(len(DIMENSIONS), np.nan), float("nan")
        mean = np.mean(readable, 0)
        swapped = self._ask(batch.instruction, before, after, 0, swap=True) if self.settings.order_check else None
        return mean, float("nan") if swapped is None else float(np.abs(swapped - mean).mean())

    def _ask(
        self, instruction: str, before: U8Image, after: U8Image, repeat: int, *, swap: bool = False
    ) -> Scores | None:
        """One asking; None if the answer could not be read."""
        labelled = [("BEFORE", before), ("AFTER", after)][:: -1 if swap else 1]
        text = f"Request: {instruction}\nPicture 1 is {labelled[0][0]}, picture 2 is {labelled[1][0]}."
        question = Question(
            INSTRUCTIONS, text, tuple(image for _, image in labelled), repeat, self.settings.temperature
        )
        try:
            return self.chat.ask(question, Grades).as_array()
        except ItemError as e:
            logger.warning("%s: an asking stays unscored: %s: %s", self.chat.name, e.reason, e)
            return None


def open_grader(settings: GraderSettings) -> GradeMeter:
    """The grader on the endpoint or the local model that the settings name."""
    vlm = settings.vlm
    return GradeMeter(OpenAiChat(vlm) if isinstance(vlm, OpenAiVlm) else LocalChat(vlm), settings)


def _expanded(box: Box, shape: tuple[int, ...], share: float) -> Box:
    x0, y0, x1, y1 = box
    dx, dy = round((x1 - x0) * share), round((y1 - y0) * share)
    return max(0, x0 - dx), max(0, y0 - dy), min(shape[1], x1 + dx), min(shape[0], y1 + dy)
