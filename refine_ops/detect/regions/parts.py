"""One part: some images in, one Parquet file out, created if absent: the commit. Resuming is listing them."""

import io
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.detect.finding.found import Finder, well_formed
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.listing import ListedImage
from refine_ops.detect.regions.rules import RuleBook, Weighed
from refine_ops.errors import ItemError
from refine_ops.image.read import decode_rgb
from refine_ops.job.planning.manifest import REGION_TYPE

DETECTION: Final = [
    ("detector", pa.string()),
    ("class", pa.string()),
    ("score", pa.float64()),
    ("box", pa.list_(pa.int32())),
    ("corners", pa.list_(pa.list_(pa.float64()))),
    ("text", pa.string()),
    ("legibility", pa.float64()),
    ("reference", pa.string()),
    ("pose", pa.list_(pa.float64())),
    ("edge_px", pa.float64()),
    ("noise", pa.float64()),
    ("blocks", pa.float64()),
    ("damage", pa.float64()),
    ("fate", pa.string()),
    ("why", pa.string()),
    ("region_id", pa.string()),
]
PART: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("dropped", pa.int64()),
        pa.field("regions", pa.list_(REGION_TYPE)),
        pa.field("detections", pa.list_(pa.struct(DETECTION))),
    ]
)
KILLED: Final = ("worker.killed", "its worker died twice at this image, once with it alone")


class Looker:
    """Looks at one image after the other with the same detectors and rules."""

    def __init__(self, config: DetectRegionsConfig, finders: Sequence[Finder]) -> None:
        self._config, self._finders, self._book = config, finders, RuleBook(config, finders)

    def row(self, listed: ListedImage) -> dict[str, Any]:
        """The image's row of `PART`; what is wrong with it is in the row."""
        row: dict[str, Any] = {"item_id": listed.item_id, "image": listed.image, "category": listed.category}
        row |= {"regions": [], "detections": [], "dropped": 0}
        if listed.reason:
            return row | {"reason": listed.reason, "message": listed.message}
        try:
            regions, weighed, size, dropped = self._looked(listed)
        except ItemError as e:
            return row | {"reason": e.reason, "message": str(e)[:1000]}
        except cv2.error as e:  # OpenCV's own checks: this image, not the job
            return row | {"reason": "opencv.failed", "message": str(e)[:1000]}
        detections = [_detection_row(one) for one in weighed]
        return row | {
            "width": size[0],
            "height": size[1],
            "regions": regions,
            "detections": detections,
            "dropped": dropped,
        }

    def _looked(self, listed: ListedImage) -> tuple[list[dict[str, Any]], list[Weighed], tuple[int, int], int]:
        storage.check_access(listed.image, self._config.access)
        data = storage.read(listed.image, self._config.limits.max_bytes)
        image = decode_rgb(data, name=listed.image, limits=self._config.limits)
        height, width = image.shape[:2]
        found, dropped = [], 0
        for finder in self._finders:
            kept, away = well_formed(finder.find(image), width, height)
            found += kept
            dropped += sum(away.values())
        regions, weighed = self._book.weigh(image, found)
        return regions, weighed, (width, height), dropped


def look_at_part(
    out: str,
    number: int,
    images: Sequence[ListedImage],
    looker: Looker,
    poison: Container[str] = (),
    note: Callable[[int], None] = lambda _: None,
) -> int:
    """Look at a part's images, in order, and commit it; returns how many there were.

    Args:
        poison: Item ids that killed their workers: dead without a look.
        note: Told the place in the part of what is looked at next, for whoever looks after this process.

    Raises:
        ItemError: `output.conflict` -- another process committed the part with other bytes.
        JobError: the store refuses writes.
    """
    rows = []
    for place, listed in enumerate(images):
        note(place)
        if listed.item_id in poison:
            listed = ListedImage(listed.item_id, listed.image, listed.category, *KILLED)
        rows.append(looker.row(listed))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PART), sink, compression="zstd")
    storage.write(part_uri(out, number), sink.getvalue(), only_if_absent=True)
    return len(rows)


def part_uri(out: str, number: int) -> str:
    """Where a part lies."""
    return storage.join(out, "parts", f"part-{number:06d}.parquet")


def done_parts(out: str) -> set[int]:
    """Numbers of the parts that exist."""
    found = storage.list_files(storage.join(out, "parts"), ".parquet")
    return {int(uri.rsplit("-", 1)[1].removesuffix(".parquet")) for uri in found}


def read_parts(out: str) -> Iterator[pa.Table]:
    """All parts in the plan's order, one at a time."""
    for uri in storage.list_files(storage.join(out, "parts"), ".parquet"):
        yield pq.read_table(io.BytesIO(storage.read(uri)), schema=PART)


def _detection_row(one: Weighed) -> dict[str, Any]:
    found, condition = one.found, one.condition
    return {
        "detector": found.detector,
        "class": found.name,
        "score": found.score,
        "box": list(one.box),
        "corners": np.round(found.quad, 2).tolist(),
        "text": found.text,
        "legibility": found.legibility,
        "reference": found.reference or None,
        "pose": None if found.pose is None else found.pose.ravel().tolist(),
        "edge_px": condition.edge_px,
        "noise": condition.noise,
        "blocks": condition.blocks,
        "damage": one.damage.probability,
        "fate": one.fate,
        "why": one.why,
        "region_id": one.region_id or None,
    }
