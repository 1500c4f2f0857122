"""A found object, and who finds it (sections 4.1 i and 4.2 i)."""

from dataclasses import dataclass
from typing import Protocol

from refine_ops.errors import ItemError
from refine_ops.records import Box, U8Image

_MAX_DESCRIPTION = 200


@dataclass(frozen=True, slots=True)
class Grounded:
    """An object in the target: its box, a short noun phrase, how sure the grounder is (1 for annotations).

    `reference_box` is the same subject in the reference; None means unknown, or no reference.
    """

    box: Box
    description: str
    confidence: float = 1.0
    reference_box: Box | None = None


class Grounder(Protocol):
    """Finds the subject of a pair, or the objects of one image."""

    @property
    def name(self) -> str:
        """Model and version, for provenance."""

    def ground(self, target: U8Image, reference: U8Image | None, description: str) -> list[Grounded]:
        """At least one object; for a pair exactly one: the subject that both images show.

        Args:
            description: What to look for, as a short noun phrase; empty where the finder is to say it.

        Raises:
            ItemError: `ground.*`, or an `AnswerError` with what a model said.
        """


def check_inside(box: Box, image: U8Image, what: str) -> None:
    """Raises ItemError `ground.invalid_box` for an empty box or one that leaves the image; nothing is clamped."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ItemError("ground.invalid_box", f"{what} {box} does not lie in the image of {width}x{height} px")


def clean_description(text: str) -> str:
    """One line without control characters: it becomes part of an instruction and of reports.

    Raises:
        ItemError: `description.too_long`.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) > _MAX_DESCRIPTION:
        raise ItemError("description.too_long", f"{len(line)} characters; at most {_MAX_DESCRIPTION}: {line[:60]!r}...")
    return line
