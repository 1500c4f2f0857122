"""Printed text, line by line: where it is, what it says and how surely that was read.

Damaged text is what is looked for: a line that cannot be read is kept with a legibility of 0, and the picture is also
searched at halves of its size, where a blurred letter is as sharp as a small one.
"""

import re
from collections.abc import Collection
from typing import Any, Final

import cv2
import numpy as np

from refine_ops import identity
from refine_ops.detect.finding.found import MAX_FOUND, Found, Quad
from refine_ops.errors import JobError
from refine_ops.judge.evidence.text import absent_packages, open_engine
from refine_ops.records import U8Image

_BOX_SCORE: Final = 0.3
"""Lower than rapidocr's own 0.5: a rule may ask for more, nobody can ask for what was thrown away."""
_READ_SIDE_PX: Final = 736
"""Smaller pictures (by their shorter side) are enlarged, twice at most: what rapidocr itself does, and needs."""
_LEAST_SIDE_PX: Final = 160
"""The smallest size at which the whole picture is still searched."""
_MOST_SIDE_PX: Final = 3072
"""Larger pictures are searched at this longer side: letters below 20 px of a 50-megapixel photo are nobody's region."""
_SAME: Final = 0.5
"""Lines of two sizes that share so much of the smaller one are one line."""
_MOST_CHARACTERS: Final = 120
_ENGINE: Final = {
    # Searched at the size it is given, whatever that is; nothing is left out for what was read of it.
    "Det.limit_side_len": 32,
    "Global.max_side_len": 4096,
    "Global.text_score": 0.0,
    # Pictures run beside each other in processes: more threads would only wait for each other.
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}


class TextFinder:
    """Implements `Finder` with the models in rapidocr's wheel."""

    name = "text"

    def __init__(self, scales: int) -> None:
        """`scales`: how many sizes are searched at most, each half of the one before.

        Raises:
            JobError: the extra is not installed.
        """
        if missing := absent_packages():
            raise JobError(
                f"detector 'text' needs {', '.join(missing)}, which is not installed: pip install 'refine-ops[eval]', "
                "or leave text out of detectors"
            )
        self._scales = scales
        self._engine = open_engine(_ENGINE)

    @property
    def classes(self) -> Collection[str]:
        return ()

    @property
    def versions(self) -> dict[str, Any]:
        return identity.versions(("rapidocr", "onnxruntime"))

    def find(self, image: U8Image) -> list[Found]:
        lines = [self._read(image, quad, score) for quad, score in self._lines(image)]
        return [line for line in lines if line is not None]

    def _lines(self, image: U8Image) -> list[tuple[Quad, float]]:
        found: list[tuple[Quad, float]] = []
        scale = float(np.clip(_READ_SIDE_PX / min(image.shape[:2]), 1.0, 2.0))
        scale = min(scale, _MOST_SIDE_PX / max(image.shape[:2]))
        for number in range(self._scales):
            if number and max(image.shape[:2]) * scale < _LEAST_SIDE_PX:
                break
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            seen = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)
            said = self._engine(seen[:, :, ::-1], use_det=True, use_rec=False, box_thresh=_BOX_SCORE)
            new = [] if said.boxes is None else list(zip(said.boxes, said.scores, strict=True))
            for corners, score in new[:MAX_FOUND]:
                quad = np.asarray(corners, np.float64) / scale
                if all(_shared(quad, other) < _SAME for other, _ in found):
                    found.append((quad, float(score)))
            scale /= 2
        return found

    def _read(self, image: U8Image, quad: Quad, score: float) -> Found | None:
        """None for a sliver that holds no letter."""
        if not np.isfinite(quad).all():
            return Found(self.name, self.name, quad, score)
        line = straightened(image, quad)
        if line is None:
            return None
        said = self._engine(line[:, :, ::-1], use_det=False, use_rec=True)
        read, sure = ("", 0.0) if not said.txts else (said.txts[0], float(said.scores[0]))
        read = one_line(read)
        sure = sure if read else 0.0
        # A star is found as surely as a blurred letter, but not read; bricks are read, but not found.
        return Found(self.name, self.name, quad, (score + sure) / 2, read, sure)


def straightened(image: U8Image, quad: Quad) -> U8Image | None:
    """A line's pixels, upright and at their own size; None where it is less than 4 px high or wide."""
    width = round(max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3])))
    height = round(max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1])))
    if min(width, height) < 4:
        return None
    goal = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), goal)
    flags = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    line = np.asarray(cv2.warpPerspective(image, matrix, (width, height), **flags), np.uint8)
    # Twice as high as wide: it runs downwards, and is read turned, as rapidocr itself does it.
    return np.ascontiguousarray(np.rot90(line)) if height >= 1.5 * width else line


def one_line(text: str) -> str:
    """What was read as a prompt may hold it: printable, no quotation mark that would end a quote, not endless."""
    plain = re.sub(r"[\"\u201c\u201d\u201e{}]", "", "".join(c if c.isprintable() else " " for c in text))
    return " ".join(plain.split())[:_MOST_CHARACTERS]


def _shared(one: Quad, other: Quad) -> float:
    """What two boxes share, of the smaller one."""
    low = np.maximum(one.min(axis=0), other.min(axis=0))
    high = np.minimum(one.max(axis=0), other.max(axis=0))
    common = float(np.prod(np.maximum(high - low, 0)))
    least = min(float(np.prod(np.ptp(q, axis=0))) for q in (one, other))
    return common / max(least, 1e-6)
