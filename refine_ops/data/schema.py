"""What a training set looks like on disk, version 1.

    OUT/
      build.json               configuration, fingerprint, versions
      plan.parquet             every sample that will be tried, with its split
      samples/part-*.parquet   accepted samples (`SAMPLES`), one part per shard; a part's existence means: shard done
      rejects/part-*.parquet   what was rejected, where and why (`REJECTS`)
      images/                  PNG files the rows name, relative to OUT
      timings/part-*.json      seconds per stage, tokens
      README.md statistics.json contact_sheet.png   the dataset card

Paths in rows are relative to OUT. `input` is I, `target` is I*, `reference` is I_ref: RGB PNG, 8 bits; `mask` is M and
`object_mask` is M_obj: grey PNG of 0 and 255. `input`, `target` and both masks have `width` x `height`; a reference
has its own size.
"""

from typing import Final

import pyarrow as pa

VERSION: Final = 1
_META: Final = {"refine_ops.dataset.version": str(VERSION)}

SAMPLES: Final = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("source_id", pa.string(), False),  # manifest row, or the synthetic sample's index
        pa.field("setting", pa.string(), False),  # "reference" | "free"
        pa.field("split", pa.string(), False),  # "train" | "validation"; pure by source image
        pa.field("input", pa.string(), False),
        pa.field("target", pa.string(), False),
        pa.field("mask", pa.string(), False),
        pa.field("reference", pa.string(), True),
        pa.field("prompt", pa.string(), False),
        pa.field("description", pa.string(), False),
        pa.field("object_box", pa.list_(pa.int32(), 4), False),  # x0, y0, x1, y1, half-open
        pa.field("object_mask", pa.string(), False),
        pa.field("mask_kind", pa.string(), False),  # "scribble" | "box" | "object"
        pa.field("width", pa.int32(), False),
        pa.field("height", pa.int32(), False),
        pa.field("families", pa.list_(pa.string()), False),  # style and degradation families, for exclusion by name
        pa.field("source_sha256", pa.list_(pa.string()), False),  # every file whose pixels or shapes are in the sample
        pa.field("licences", pa.list_(pa.string()), False),
        pa.field("seed", pa.int64(), False),
        pa.field("degradations", pa.string(), False),  # JSON list, in order of application
        pa.field("scores", pa.string(), False),  # JSON object
        pa.field("models", pa.string(), False),  # JSON object: stage -> model and version
    ],
    metadata=_META,
)

REJECTS: Final = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("source_id", pa.string(), False),
        pa.field("split", pa.string(), False),
        pa.field("stage", pa.string(), False),
        pa.field("reason", pa.string(), False),
        pa.field("message", pa.string(), False),
        pa.field("raw_answer", pa.string(), True),  # what a VLM said, where it could not be read
        pa.field("scores", pa.string(), False),
        pa.field("input", pa.string(), True),  # the rejected I, where one was made
        pa.field("target", pa.string(), True),
        pa.field("mask", pa.string(), True),
        pa.field("seed", pa.int64(), False),
    ],
    metadata=_META,
)
