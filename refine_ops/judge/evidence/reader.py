"""The reader that evidence of text is taken with; the record itself is `records.Evidence`."""

from typing import Protocol

from refine_ops.records import U8Image


class Reader(Protocol):
    """What reads text: `rapidocr` where it is installed."""

    def read(self, image: U8Image) -> list[tuple[str, float]]:
        """Lines and their confidence in [0, 1], in reading order."""
