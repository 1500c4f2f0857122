"""What a folder of parts comes to: manifest, detections, dead letter, statistics, contact sheet."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.detect.regions.parts import DETECTION, read_parts
from refine_ops.errors import ItemError
from refine_ops.image.read import decode_rgb
from refine_ops.image.sheet import SheetCell, draw_sheet, fitted, in_rows
from refine_ops.job.planning.manifest import SCHEMA
from refine_ops.records import U8Image

DETECTIONS: Final = pa.schema([("item_id", pa.string()), ("image", pa.string()), *DETECTION])
DEAD: Final = pa.schema([(name, pa.string()) for name in ("item_id", "image", "reason", "message")])
_SHEET_CELLS: Final = 24
_SHEET_PX: Final = 360
_ACROSS: Final = 4
_KEPT: Final = (255, 32, 96)
_NOT_KEPT: Final = (120, 120, 120)


@dataclass(frozen=True, slots=True)
class DetectionSummary:
    """What was found in all images of a folder, and where the files are. Counts by fate, class and reason."""

    out: str
    images: int
    with_regions: int
    dead: int
    regions: int
    detections: int
    malformed: int
    regions_by_class: dict[str, int]
    detections_by_fate: dict[str, int]
    dead_by_reason: dict[str, int]

    @property
    def manifest(self) -> str:
        return storage.join(self.out, "manifest.parquet")

    @property
    def sheet(self) -> str:
        return storage.join(self.out, "contact_sheet.png")


def publish_results(out: str, limits: ImageLimits) -> DetectionSummary:
    """Read all parts, one at a time, and write what they come to; written again it is the same."""
    manifest, detections, dead = _Sink(SCHEMA), _Sink(DETECTIONS), _Sink(DEAD)
    counts: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    fates: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    shown = _Spread(_SHEET_CELLS)
    for part in read_parts(out):
        rows = part.to_pylist()
        manifest.add([_manifest_row(row) for row in rows if row["regions"]])
        detections.add([{"item_id": r["item_id"], "image": r["image"], **d} for r in rows for d in r["detections"]])
        dead.add([{name: row[name] for name in DEAD.names} for row in rows if row["reason"]])
        for row in rows:
            counts["images"] += 1
            counts["malformed"] += row["dropped"]
            if row["reason"]:
                reasons[row["reason"]] += 1
            if row["regions"]:
                counts["with_regions"] += 1
                shown.offer(row)
            classes.update(region["region_id"].rpartition("-")[0] for region in row["regions"])
            fates.update(d["fate"] for d in row["detections"])
    summary = DetectionSummary(
        out=out,
        images=counts["images"],
        with_regions=counts["with_regions"],
        dead=reasons.total(),
        regions=classes.total(),
        detections=fates.total(),
        malformed=counts["malformed"],
        regions_by_class=dict(sorted(classes.items())),
        detections_by_fate=dict(sorted(fates.items())),
        dead_by_reason=dict(sorted(reasons.items())),
    )
    storage.write(storage.join(out, "detections.parquet"), detections.close())
    storage.write(storage.join(out, "dead_letter.parquet"), dead.close())
    statistics = {name: value for name, value in asdict(summary).items() if name != "out"}
    storage.write(storage.join(out, "statistics.json"), json.dumps(statistics, indent=1).encode())
    if shown.rows:
        storage.write(summary.sheet, _sheet(shown.rows, limits))
    storage.write(summary.manifest, manifest.close())  # last: who sees it sees all of it
    return summary


def _manifest_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"item_id": row["item_id"], "image": row["image"], "category": row["category"], "regions": row["regions"]}


class _Sink:
    """A Parquet file, compressed as it comes: of two million images about 100 bytes each are held."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._bytes = schema, io.BytesIO()
        self._writer = pq.ParquetWriter(self._bytes, schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        self._waiting += rows
        if len(self._waiting) >= 4096:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []

    def close(self) -> bytes:
        self._flush()
        self._writer.close()
        return self._bytes.getvalue()


class _Spread:
    """At most `count` rows, spread evenly over all that are offered: of too many every second one goes."""

    def __init__(self, count: int) -> None:
        self._count, self._every, self._seen = count, 1, 0
        self.rows: list[dict[str, Any]] = []

    def offer(self, row: dict[str, Any]) -> None:
        if self._seen % self._every == 0:
            self.rows.append(row)
            if len(self.rows) > self._count:
                self.rows, self._every = self.rows[::2], 2 * self._every
        self._seen += 1


def _sheet(rows: list[dict[str, Any]], limits: ImageLimits) -> bytes:
    return draw_sheet(in_rows([cell for row in rows if (cell := _cell(row, limits)) is not None], _ACROSS), _SHEET_PX)


def _cell(row: dict[str, Any], limits: ImageLimits) -> SheetCell | None:
    try:
        image = decode_rgb(storage.read(row["image"], limits.max_bytes), name=row["image"], limits=limits)
    except ItemError:  # gone since it was looked at
        return None
    found = row["detections"]
    lines = (row["item_id"][-40:], f"{_regions(row)} of {len(found)} found")
    return SheetCell(_drawn(image, row), lines)


def _drawn(image: U8Image, row: dict[str, Any]) -> U8Image:
    """Regions in red, and thinly in grey what was found and not kept."""
    small = np.array(fitted(image, _SHEET_PX))
    factor = small.shape[1] / image.shape[1]
    boxes = [(d["box"], _NOT_KEPT, 1) for d in row["detections"] if not d["region_id"]]
    boxes += [(region["box"], _KEPT, 2) for region in row["regions"]]
    for box, colour, thick in boxes:
        x0, y0, x1, y1 = (round(v * factor) for v in box)
        cv2.rectangle(small, (x0, y0), (x1 - 1, y1 - 1), colour, thick)
    return small


def _regions(row: dict[str, Any]) -> str:
    count = len(row["regions"])
    return f"{count} region{'s' * (count != 1)}"


def explained(row: dict[str, Any]) -> Iterator[str]:
    """What became of each detection of one image, a line each."""
    if row.get("reason"):
        yield f"{row['item_id']}: {row['message']} ({row['reason']})"
        return
    counted = f"{len(row['detections'])} found, {_regions(row)}"
    yield f"{row['item_id']}: {row['width']}x{row['height']} px, {counted}"
    for d in row["detections"]:
        read = f" {d['text']!r}" if d["text"] else ""
        yield f"  {d['class']}{read} at {d['box']}, score {d['score']:.2f}: {d['fate']} ({d['why']})"
    if row["dropped"]:
        yield f"  {row['dropped']} more were no boxes: no number, or outside the image"
    for region in row["regions"]:
        yield f"  -> {region['region_id']} {region['box']}: {region['prompt']}"
