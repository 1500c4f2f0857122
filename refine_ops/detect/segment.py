"""Stage 2, segment: one object's mask from its box (section 4.1 ii); GrabCut here, SAM in `sam`."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from refine_ops.detect.config import GrabCutSegmentation, SegmentLimits
from refine_ops.errors import ItemError
from refine_ops.records import Box, Mask, U8Image

_CONTEXT = 0.35
"""How far around the box GrabCut sees, in box sides: it needs background to learn from."""
_JITTER = 0.04
"""How far the box moves for the second opinion, in box sides: what an annotator's hand varies by."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """M_obj, `bool (H, W)`; `score` is the segmenter's own confidence, `ambiguity` 0 (certain) to 1."""

    mask: Mask
    score: float
    ambiguity: float


class Segmenter(Protocol):
    """Turns a box (and a phrase) into one instance's mask."""

    @property
    def name(self) -> str:
        """Model and version, for provenance."""

    def segment(self, image: U8Image, box: Box, description: str) -> Segmented:
        """Raises ItemError `segment.*` where nothing is found."""


def accept(found: Segmented, box: Box, limits: SegmentLimits) -> None:
    """Refuse masks that are no single, clear instance in the box.

    Raises:
        ItemError: `segment.ambiguous`, `segment.too_small`, `segment.leaks`, `segment.scattered`; the message has the
            figure and the limit.
    """
    area = int(found.mask.sum())
    x0, y0, x1, y1 = box
    inside = int(found.mask[y0:y1, x0:x1].sum())
    box_share = inside / ((x1 - x0) * (y1 - y0))
    checks = (
        ("segment.too_small", box_share, limits.min_box_share, "of the box covered"),
        ("segment.leaks", inside / max(area, 1), limits.min_inside, "of the mask in the box"),
        ("segment.scattered", largest_share(found.mask), limits.min_largest, "of the mask in its largest component"),
        ("segment.ambiguous", 1 - found.ambiguity, 1 - limits.max_ambiguity, "agreement (1 - ambiguity)"),
    )
    for reason, value, least, what in checks:
        if value < least:
            raise ItemError(reason, f"{value:.3f} {what}, at least {least:.3f} is asked for")


def largest_share(mask: Mask) -> float:
    """Share of the mask in its largest 8-connected component; 0 for an empty mask."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return float(areas.max() / areas.sum()) if len(areas) else 0.0


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


class GrabCut:
    """GrabCut on the box and its surroundings, run again with the box moved inwards and outwards."""

    def __init__(self, settings: GrabCutSegmentation) -> None:
        self._settings = settings

    @property
    def name(self) -> str:
        return f"grabcut (opencv {cv2.__version__})"

    def segment(self, image: U8Image, box: Box, description: str) -> Segmented:
        height, width = image.shape[:2]
        dx, dy = _CONTEXT * (box[2] - box[0]), _CONTEXT * (box[3] - box[1])
        x0, y0 = max(0, int(box[0] - dx)), max(0, int(box[1] - dy))
        x1, y1 = min(width, int(np.ceil(box[2] + dx))), min(height, int(np.ceil(box[3] + dy)))
        scale = min(1.0, self._settings.work_side_px / max(x1 - x0, y1 - y0))
        size = max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale))
        work = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
        factors = size[0] / (x1 - x0), size[1] / (y1 - y0)
        masks = [self._cut(work, (x0, y0), factors, _grow(box, share)) for share in (0.0, -_JITTER, _JITTER)]
        ambiguity = 1 - min(iou(masks[0], other) for other in masks[1:])
        mask = np.zeros((height, width), bool)
        soft = cv2.resize(masks[0].astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        mask[y0:y1, x0:x1] = soft > 0.5
        if not mask.any():
            raise ItemError("segment.nothing", f"{self.name}: no foreground in box {box}")
        return Segmented(mask, 1 - ambiguity, ambiguity)

    def _cut(
        self, work: U8Image, origin: tuple[int, int], factors: tuple[float, float], box: tuple[float, ...]
    ) -> Mask:
        height, width = work.shape[:2]
        xs = [round((x - origin[0]) * factors[0]) for x in box[::2]]
        ys = [round((y - origin[1]) * factors[1]) for y in box[1::2]]
        x0, x1 = max(0, xs[0]), min(width, xs[1])
        y0, y1 = max(0, ys[0]), min(height, ys[1])
        if x1 - x0 < 2 or y1 - y0 < 2 or (x1 - x0) * (y1 - y0) == width * height:
            raise ItemError("segment.no_background", f"{self.name}: the box fills its surroundings or is a speck")
        labels = np.zeros((height, width), np.uint8)
        cv2.setRNGSeed(0)  # GrabCut seeds its colour clusters from OpenCV's global generator
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        rectangle = x0, y0, x1 - x0, y1 - y0
        bgr = np.ascontiguousarray(work[:, :, ::-1])
        cv2.grabCut(bgr, labels, rectangle, background, foreground, self._settings.iterations, cv2.GC_INIT_WITH_RECT)
        return _solid((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _grow(box: Box, share: float) -> tuple[float, ...]:
    dx, dy = share * (box[2] - box[0]), share * (box[3] - box[1])
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


def _solid(mask: Mask) -> Mask:
    """The mask without specks below 1 % of it, and without holes below 1 % of it."""
    limit = 0.01 * float(mask.sum())
    for value in (True, False):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=4)
        small = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] < limit]
        mask = np.where(np.isin(labels, small), not value, mask)
    return mask
