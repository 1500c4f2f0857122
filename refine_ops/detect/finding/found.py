"""One thing found in a picture, and the protocol of what finds it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from refine_ops.records import Box, U8Image

Quad = npt.NDArray[np.float64]
"""Corners `(4, 2)` as (x, y) in pixels of the upright image, clockwise from what is top left when it is read."""
MAX_FOUND: Final = 2000
"""Of one detector in one picture; the best by score are kept, the rest is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """`name` is its class, `score` how sure the detector is, in [0, 1].

    `text` is what was read and `legibility` how surely, in [0, 1]. `reference` is the URI of what it is to look like,
    `pose` `float64 (3, 3)` maps that picture's pixels to the image's. `softness` in [0, 1] says how far the detector
    itself sees that it is damaged (blurred against its reference, say); None: it cannot tell.
    """

    detector: str
    name: str
    quad: Quad
    score: float
    text: str = ""
    legibility: float | None = None
    reference: str = ""
    pose: npt.NDArray[np.float64] | None = None
    softness: float | None = None

    def box(self, width: int, height: int) -> Box:
        """The smallest box of whole pixels around the corners, inside the image; empty where nothing of it is."""
        low, high = np.floor(self.quad.min(axis=0)), np.ceil(self.quad.max(axis=0))
        x0, y0 = (int(np.clip(v, 0, most)) for v, most in zip(low, (width, height), strict=True))
        x1, y1 = (int(np.clip(v, 0, most)) for v, most in zip(high, (width, height), strict=True))
        return x0, y0, x1, y1


class Finder(Protocol):
    """Finds one kind of thing. Used by one thread of one process."""

    @property
    def name(self) -> str:
        """The detector's name: rules may be written for all that it finds."""

    @property
    def classes(self) -> Collection[str] | None:
        """Every class it can find, beside its own name; None where that is open."""

    @property
    def versions(self) -> dict[str, Any]:
        """What decides what it finds, beside its settings: packages, files by their hashes."""

    def find(self, image: U8Image) -> list[Found]:
        """What is there, `uint8 (H, W, 3)`, in any order; nothing found is an empty list.

        Raises:
            ItemError: this image cannot be looked at.
        """


def upright_quad(x0: float, y0: float, x1: float, y1: float) -> Quad:
    """The corners of a box."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def well_formed(found: list[Found], width: int, height: int) -> tuple[list[Found], dict[str, int]]:
    """What can be a region, at most `MAX_FOUND` by falling score, and how many were dropped, by reason.

    A detector is a network or a search and may say anything: no number, corners outside, a million boxes.
    """
    dropped: dict[str, int] = {}

    def drop(reason: str, count: int = 1) -> None:
        dropped[reason] = dropped.get(reason, 0) + count

    kept = []
    for one in found:
        if not (np.isfinite(one.quad).all() and np.isfinite(one.score)):
            drop("no number")
            continue
        x0, y0, x1, y1 = one.box(width, height)
        if x0 >= x1 or y0 >= y1:
            drop("outside")
            continue
        kept.append(one)
    kept.sort(key=lambda one: (-one.score, tuple(one.quad.ravel().tolist()), one.name))
    if len(kept) > MAX_FOUND:
        drop("too many", len(kept) - MAX_FOUND)
    return kept[:MAX_FOUND], dropped
