"""Questions to a vision-language model: the seam shared by grounding, validation and grading.

An answer is a JSON object of a stated schema or an error that keeps what was said; nothing is guessed from prose.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import cv2
from pydantic import BaseModel, ConfigDict, ValidationError

from refine_ops.errors import ItemError
from refine_ops.records import U8Image

_BOUNDS: Final = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
     "format", "minItems", "maxItems", "uniqueItems", "default"}
)  # fmt: skip
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)


class Reply(BaseModel):
    """Root of all answers: unknown keys are errors, and no field has a default (strict JSON schema)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ReplyT = TypeVar("ReplyT", bound=Reply)


@dataclass(frozen=True, slots=True)
class Question:
    """`images` are `uint8 (H, W, 3)` RGB, shown in order after `text`.

    `repeat` tells repeated askings apart and seeds the sampling; at temperature 0 they are copies of one answer.
    """

    instructions: str
    text: str
    images: tuple[U8Image, ...]
    repeat: int = 0
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the questions so far took; `cost_usd` is None where no price is known."""

    calls: int = 0
    cached: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None

    def __add__(self, other: "Usage") -> "Usage":
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return Usage(
            self.calls + other.calls,
            self.cached + other.cached,
            self.retries + other.retries,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            sum(costs) if costs else None,
        )

    def __sub__(self, earlier: "Usage") -> "Usage":
        """What was used since `earlier`, a former state of the same count."""
        cost = None if self.cost_usd is None else self.cost_usd - (earlier.cost_usd or 0)
        return Usage(
            self.calls - earlier.calls,
            self.cached - earlier.cached,
            self.retries - earlier.retries,
            self.input_tokens - earlier.input_tokens,
            self.output_tokens - earlier.output_tokens,
            cost,
        )


class AnswerError(ItemError):
    """The model answered, but not with what was asked for; `raw` is its answer as it came."""

    def __init__(self, reason: str, message: str, raw: str) -> None:
        super().__init__(reason, message)
        self.raw = raw


class Chat(Protocol):
    """Someone who looks at images and answers in JSON."""

    @property
    def name(self) -> str:
        """Model and endpoint, for provenance; never a secret."""

    @property
    def usage(self) -> Usage:
        """Since this object was made."""

    def ask(self, question: Question, reply: type[ReplyT]) -> ReplyT:
        """Ask once.

        Raises:
            AnswerError: `vlm.unparsable`, `vlm.refused`, `vlm.truncated`.
            ItemError: `vlm.bad_request`, where this question is not taken though others are.
            JobError: nobody answers; nothing is decided about the sample.
        """


def strict_schema(reply: type[Reply]) -> dict[str, Any]:
    """The JSON schema of `reply` in the subset that strict structured output takes: what bounds a value's size is left
    out (endpoints answer 400 to it) and checked when the answer is read; say it in the field's description."""
    schema: dict[str, Any] = _without_bounds(reply.model_json_schema())
    return schema


def _without_bounds(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_bounds(n) for n in node]
    if not isinstance(node, dict):
        return node
    named = {"properties", "$defs"}  # their keys are names, not keywords
    return {
        key: {name: _without_bounds(n) for name, n in value.items()} if key in named else _without_bounds(value)
        for key, value in node.items()
        if key not in _BOUNDS
    }


def parse(raw: str, reply: type[ReplyT]) -> ReplyT:
    """Read `raw` as `reply`: one JSON object and nothing else, a code fence around the whole being allowed.

    Raises:
        AnswerError: `vlm.unparsable`.
    """
    text = raw.strip()
    fenced = _FENCE.match(text)
    try:
        return reply.model_validate_json(fenced[1] if fenced else text)
    except ValidationError as e:
        problem = "; ".join(f"{'.'.join(map(str, d['loc'])) or 'answer'}: {d['msg']}" for d in e.errors()[:3])
        raise AnswerError(
            "vlm.unparsable", f"expected one JSON object of schema {reply.__name__}, came {raw[:120]!r}: {problem}", raw
        ) from e


def shrink(image: U8Image, max_side_px: int) -> U8Image:
    """`image` with its longer side at most `max_side_px`, area-averaged; smaller ones as they are."""
    height, width = image.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]
