"""Stage 7, write: images as PNG, rows as Parquet parts. A part appears last, and whole: then its shard is done."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.data.building.images import ImageWriter
from refine_ops.data.plan import PlannedSample
from refine_ops.data.schema import REJECTS, SAMPLES
from refine_ops.data.stages.sample import Sample
from refine_ops.data.stages.validate import Rejected
from refine_ops.errors import ItemError, JobError
from refine_ops.records import Mask, U8Image
from refine_ops.vlm.questions import AnswerError


def part_name(part: int) -> str:
    return f"part-{part:06d}"


def done_parts(out: str) -> set[int]:
    """Numbers of the parts that exist."""
    return {int(uri.rsplit("-", 1)[1].removesuffix(".parquet")) for uri in part_files(out, "samples")}


def part_files(out: str, kind: str) -> list[str]:
    return list(storage.list_files(storage.join(out, kind), ".parquet"))


def sample_row(images: ImageWriter, planned: PlannedSample, sample: Sample) -> dict[str, Any]:
    """Write the sample's images and return its row (`schema.SAMPLES`)."""
    own = planned.sample_id
    height, width = sample.mask.shape
    return {
        "sample_id": planned.sample_id,
        "source_id": planned.source_id,
        "setting": sample.setting,
        "split": planned.split,
        "input": images.own("input", own, sample.input),
        "target": images.shared("target", sample.target),
        "mask": images.own("mask", own, sample.mask),
        "reference": None if sample.reference is None else images.shared("reference", sample.reference),
        "prompt": sample.prompt,
        "description": sample.description,
        "object_box": list(sample.object_box),
        "object_mask": images.own("object", own, sample.object_mask),
        "mask_kind": sample.mask_kind,
        "width": width,
        "height": height,
        "families": list(sample.families),
        "source_sha256": list(sample.source_sha256),
        "licences": list(sample.licences),
        "seed": planned.seed,
        "degradations": _json(sample.degradations),
        "scores": _json(sample.scores),
        "models": _json(sample.models),
    }


def reject_row(
    images: ImageWriter, planned: PlannedSample, stage: str, error: ItemError, made: Mapping[str, U8Image | Mask]
) -> dict[str, Any]:
    """Write the images there are (`input`, `target`, `mask`) and return the row (`schema.REJECTS`)."""
    kept = {n: images.own(f"rejected-{n}", planned.sample_id, image) for n, image in made.items() if n != "target"}
    if "target" in made:
        kept["target"] = images.shared("target", made["target"])
    return {
        "sample_id": planned.sample_id,
        "source_id": planned.source_id,
        "split": planned.split,
        "stage": stage,
        "reason": error.reason,
        "message": str(error),
        "raw_answer": error.raw if isinstance(error, AnswerError) else None,
        "scores": _json(error.scores if isinstance(error, Rejected) else {}),
        "seed": planned.seed,
        **{name: kept.get(name) for name in ("input", "target", "mask")},
    }


def write_part(out: str, part: int, samples: Sequence[Any], rejects: Sequence[Any], timings: Mapping[str, Any]) -> None:
    """Rejects and timings first, samples last: the samples' part is the commit."""
    name = part_name(part)
    storage.write(storage.join(out, "rejects", f"{name}.parquet"), _parquet(rejects, REJECTS))
    storage.write(storage.join(out, "timings", f"{name}.json"), json.dumps(timings).encode())
    storage.write(storage.join(out, "samples", f"{name}.parquet"), _parquet(samples, SAMPLES))


def read_parts(out: str, kind: str) -> pa.Table:
    """All rows of `samples` or `rejects`, in plan order.

    Raises:
        JobError: there is no part, or a part of another schema version.
    """
    schema = {"samples": SAMPLES, "rejects": REJECTS}[kind]
    tables = [pq.read_table(io.BytesIO(storage.read(uri))) for uri in part_files(out, kind)]
    if not tables:
        raise JobError(f"{out}: holds no {kind} parts; build the set first")
    if any(not t.schema.equals(schema) or t.schema.metadata != schema.metadata for t in tables):
        raise JobError(f"{out}: its {kind} parts have another schema version; build the set again in a new folder")
    return pa.concat_tables(tables)


def _parquet(rows: Sequence[Any], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
