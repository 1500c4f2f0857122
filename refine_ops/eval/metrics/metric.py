"""What a metric is, and what it is computed on.

A metric's definition has a version; every stored value names it, and changing a definition means a new version, so
that values of two definitions never meet in one mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from refine_ops.records import Alignment, Box, Mask, U8Image

Scores = npt.NDArray[np.float64]
"""`float64 (n,)`, one per input of a batch; NaN where the metric does not apply to that input."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per input. `better` says which way improvement goes; `label` heads its table column."""

    name: str
    version: int
    label: str
    better: Literal["lower", "higher"]
    group: Literal["region", "background", "strict", "drift", "grades", "text"]
    meaning: str

    @property
    def key(self) -> str:
        """Name and version, as stored with every value."""
        return f"{self.name}@{self.version}"

    @property
    def arrow(self) -> str:
        return "↓" if self.better == "lower" else "↑"


def current_name(metric: str) -> str:
    """What the metric of that name is called now: results of 0.1.0 have VLM grades as `judge_...`."""
    return metric.replace("judge_", "grade_", 1) if metric.startswith("judge_") else metric


@dataclass(frozen=True, slots=True)
class CaseBatch:
    """One method's outputs for the inputs of one case; every array is `uint8 (n, H, W, 3)` or `bool (n, H, W)`.

    `target` is the ground truth of each input (JPEG inputs have their own, see `build.py`), `allowed` the allowed
    change: where a strict method may write. `box` is the case's object box, half-open. `alignments` are those of the
    outputs, None where the method has none.
    """

    inputs: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    allowed: npt.NDArray[np.bool_]
    box: Box
    instruction: str
    setting: str
    text: str = ""
    references: tuple[U8Image | None, ...] = ()
    alignments: tuple[Alignment | None, ...] = ()

    def __len__(self) -> int:
        return len(self.outputs)

    def crop(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The object box of every image: `(n, h, w, 3)`."""
        x0, y0, x1, y1 = self.box
        return images[:, y0:y1, x0:x1]

    def with_input_foreground(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`images` with the input's object box put in: equal to the input exactly if the background is."""
        x0, y0, x1, y1 = self.box
        out = images.copy()
        out[:, y0:y1, x0:x1] = self.inputs[:, y0:y1, x0:x1]
        return out

    def outside_box(self) -> Mask:
        x0, y0, x1, y1 = self.box
        outside = np.ones(self.outputs.shape[1:3], bool)
        outside[y0:y1, x0:x1] = False
        return outside


class Meter(Protocol):
    """Computes some metrics on a case; holds the models they need, on a device."""

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def source(self) -> str:
        """Model, package and version that the scores come from; scores of two sources never stand for each other."""

    @property
    def repeatable(self) -> bool:
        """Whether NaN is final; if not, the next run tries again (an endpoint that did not answer)."""

    @property
    def missing(self) -> str:
        """Why nothing can be measured (weights absent, package absent, no endpoint); empty when all is there."""

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        """Scores by metric name."""


@dataclass(frozen=True, slots=True)
class MissingMeter:
    """Stands for metrics whose weights or endpoint are absent: they are reported as missing, never as a number."""

    metrics: tuple[Metric, ...]
    missing: str
    source: str = ""
    repeatable: bool = False

    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        return {m.name: np.full(len(batch), np.nan) for m in self.metrics}


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`uint8 (n, h, w, 3)` in 0..255 to `dtype (n, 3, h, w)` in [0, 1] on `device`."""
    moved = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return moved.permute(0, 3, 1, 2).to(dtype) / 255
