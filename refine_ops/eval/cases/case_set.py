"""The case set on disk, version 1: what is evaluated, hashed file by file.

    SET/
      cases.parquet            one row per degraded input (`CASES`)
      images/<case_id>/...     targets, inputs, masks (grey, 0 and 255), references
      candidates/<case_id>.png every degraded version, the kept ones framed: the sheet to choose from
      contact_sheet.png  README.md  dropped.json

A case is one clean image with an object box, a category and an instruction; its inputs differ in degrader and mask.
Paths in rows are relative to SET. The set's digest is the hash of all rows, which name the files' hashes.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.image.mask import decode_mask
from refine_ops.image.read import decode, decode_rgb
from refine_ops.image.reference import decode_reference
from refine_ops.records import Box, Mask, U8Image

VERSION: Final = 1
Setting = Literal["reference", "free"]
REFERENCE_CATEGORIES: Final = ("logo", "product", "person")
FREE_CATEGORIES: Final = ("body", "object", "face", "text")
_ANY_BOX: Final = pa.list_(pa.int32(), 4)
_META: Final = {"refine_ops.cases.version": str(VERSION)}

CASES: Final = pa.schema(
    [
        pa.field("case_id", pa.string(), False),
        pa.field("input_id", pa.string(), False),
        pa.field("setting", pa.string(), False),  # "reference" | "free"
        pa.field("category", pa.string(), False),
        pa.field("instruction", pa.string(), False),
        pa.field("text", pa.string(), False),  # what should be read in the box; empty: no text
        pa.field("object_box", _ANY_BOX, False),  # x0, y0, x1, y1, half-open
        pa.field("width", pa.int32(), False),
        pa.field("height", pa.int32(), False),
        pa.field("input", pa.string(), False),  # PNG or JPEG
        pa.field("target", pa.string(), False),  # PNG; equals the decoded input outside the degradation's support
        pa.field("mask", pa.string(), False),
        pa.field("reference", pa.string(), False),  # empty: none
        pa.field("input_sha256", pa.string(), False),
        pa.field("target_sha256", pa.string(), False),
        pa.field("mask_sha256", pa.string(), False),
        pa.field("reference_sha256", pa.string(), False),
        pa.field("degrader", pa.string(), False),
        pa.field("candidate", pa.string(), False),  # s<scribble>k<seed>
        pa.field("change", pa.float64(), False),  # mean |I - I*| over M, in 1/255
        pa.field("source", pa.string(), False),
        pa.field("source_sha256", pa.string(), False),
        pa.field("licence", pa.string(), False),
    ],
    metadata=_META,
)


@dataclass(frozen=True, slots=True)
class EvalInput:
    """One row of `CASES`; `object_box` as a tuple."""

    case_id: str
    input_id: str
    setting: Setting
    category: str
    instruction: str
    text: str
    object_box: Box
    width: int
    height: int
    input: str
    target: str
    mask: str
    reference: str
    input_sha256: str
    target_sha256: str
    mask_sha256: str
    reference_sha256: str
    degrader: str
    candidate: str  # named as stored: the digests of case sets that exist hold the name
    change: float
    source: str
    source_sha256: str
    licence: str

    @property
    def digest(self) -> str:
        """Identifies the row and, through it, all of its files."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CaseSet:
    """`inputs` in file order, cases together."""

    uri: str
    inputs: tuple[EvalInput, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(sorted(i.digest for i in self.inputs)).encode()).hexdigest()

    def by_case(self) -> dict[str, list[EvalInput]]:
        cases: dict[str, list[EvalInput]] = {}
        for item in self.inputs:
            cases.setdefault(item.case_id, []).append(item)
        return cases


@dataclass(frozen=True, slots=True, eq=False)
class LoadedInput:
    """An input with its files decoded: arrays of one size, the input's own bytes, and the reference's if any."""

    item: EvalInput
    data: bytes
    image: U8Image
    target: U8Image
    mask: Mask
    mask_data: bytes
    reference: U8Image | None
    reference_data: bytes | None


def load_cases(uri: str) -> CaseSet:
    """Read `cases.parquet` of the set at `uri`.

    Raises:
        JobError: no set is there, or its version or columns are not this one's.
    """
    path = storage.join(uri, "cases.parquet")
    try:
        table = pq.read_table(io.BytesIO(storage.read(path)))
    except storage.Missing as e:
        raise JobError(f"{uri}: no cases.parquet; build a set with `refine-ops eval build-cases`") from e
    except pa.ArrowInvalid as e:
        raise JobError(f"{path}: not Parquet: {e}") from e
    version = (table.schema.metadata or {}).get(b"refine_ops.cases.version", b"?").decode()
    if version != str(VERSION) or not set(CASES.names) <= set(table.column_names):
        raise JobError(f"{path}: version {version}, this release reads version {VERSION}; build the set again")
    rows = table.select(CASES.names).to_pylist()
    if not rows:
        raise JobError(f"{path}: holds no case")
    return CaseSet(uri, tuple(EvalInput(**{**r, "object_box": tuple(r["object_box"])}) for r in rows))


def save_cases(uri: str, inputs: Iterable[EvalInput]) -> CaseSet:
    """Write `cases.parquet`; the files it names must be there already."""
    rows = tuple(inputs)
    columns: dict[str, list[Any]] = {name: [getattr(r, name) for r in rows] for name in CASES.names}
    out = io.BytesIO()
    pq.write_table(pa.table(columns, CASES), out)
    storage.write(storage.join(uri, "cases.parquet"), out.getvalue())
    return CaseSet(uri, rows)


def load_input(cases: CaseSet, item: EvalInput, limits: ImageLimits) -> LoadedInput:
    """Read, check and decode one input's files.

    Raises:
        JobError: a file is absent, is not the one the set was made with, or has another size.
    """
    data = _file(cases, item.input, item.input_sha256)
    mask_data = _file(cases, item.mask, item.mask_sha256)
    reference = _file(cases, item.reference, item.reference_sha256) if item.reference else None
    size = (item.width, item.height)
    try:
        loaded = LoadedInput(
            item=item,
            data=data,
            image=np.ascontiguousarray(decode(data, name=item.input, limits=limits).rgb),
            target=decode_rgb(_file(cases, item.target, item.target_sha256), name=item.target, limits=limits),
            mask=decode_mask(mask_data, name=item.mask, size=size, limits=limits),
            mask_data=mask_data,
            reference=None if reference is None else decode_reference(reference, name=item.reference, limits=limits),
            reference_data=reference,
        )
    except ItemError as e:
        raise JobError(f"case set {cases.uri}, input {item.input_id}: {e}") from e
    if loaded.image.shape != loaded.target.shape or loaded.image.shape[:2] != (item.height, item.width):
        raise JobError(f"input {item.input_id}: {loaded.image.shape}, target {loaded.target.shape}; expected {size}")
    return loaded


def _file(cases: CaseSet, path: str, digest: str) -> bytes:
    uri = storage.join(cases.uri, path)
    try:
        data = storage.read(uri)
    except ItemError as e:
        raise JobError(f"case set {cases.uri}: {e}") from e
    if storage.sha256(data) != digest:
        raise JobError(f"{uri}: is not the file the case set was made with (SHA-256 differs); build the set again")
    return data
