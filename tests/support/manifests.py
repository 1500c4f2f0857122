"""Rows of a manifest in both forms, and files of all three formats."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops.job.planning.manifest import SCHEMA

BOX = {"box": [1, 2, 30, 40], "prompt": "Refine the label"}
SCRIBBLE = {"scribble": {"strokes": [[[1.5, 2], [8, 9]], [[3, 3]]], "width": 4}, "prompt": "Refine the wire", "seed": 7}
MASK = {"mask": "m.png", "prompt": "Refine the logo", "reference": "ref.png", "paste": "box", "region_id": "logo"}


def nested() -> list[dict]:
    return [
        {"item_id": "a", "image": "a.jpg", "regions": [BOX, SCRIBBLE]},
        {"item_id": "b", "image": "sub/b.PNG", "output": "x/y.png", "category": "shoes", "regions": [MASK]},
    ]


def flat() -> list[dict]:
    shared = [{k: v for k, v in row.items() if k != "regions"} for row in nested()]
    return [{**shared[0], **BOX}, {**shared[1], **MASK}, {**shared[0], **SCRIBBLE}]


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        has_regions = "regions" in rows[0]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=SCHEMA) if has_regions else pa.Table.from_pylist(_all_keys(rows)), path
        )
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(_all_keys(rows)[0]))
            writer.writeheader()
            writer.writerows({k: _cell(k, v) for k, v in row.items()} for row in rows)
    return str(path)


def _all_keys(rows: list[dict]) -> list[dict]:
    keys = dict.fromkeys(k for row in rows for k in row)
    return [{k: row.get(k) for k in keys} for row in rows]


def _cell(key: str, value: object) -> object:
    if key == "box":
        return ",".join(map(str, value))  # type: ignore[arg-type]
    return json.dumps(value) if key == "scribble" else value
