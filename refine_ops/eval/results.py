"""Results, one row per method, input and metric, version 1: `results.parquet`. A missing score is null with a note."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.metrics.metric import Scores, current_name

VERSION: Final = 1
_ALWAYS: Final = "mse"
NOT_APPLICABLE: Final = "does not apply to this input"
RESULTS: Final = pa.schema(
    [
        pa.field("method", pa.string(), False),
        pa.field("method_digest", pa.string(), False),
        pa.field("ablation", pa.bool_(), False),
        pa.field("case_id", pa.string(), False),
        pa.field("input_id", pa.string(), False),
        pa.field("setting", pa.string(), False),
        pa.field("category", pa.string(), False),
        pa.field("metric", pa.string(), False),
        pa.field("version", pa.int32(), False),
        pa.field("source", pa.string(), False),  # the model or package a metric was computed with
        pa.field("value", pa.float64(), True),
        pa.field("note", pa.string(), False),  # why there is no value
    ]
)


@dataclass(frozen=True, slots=True)
class Score:
    """One row of `RESULTS`."""

    method: str
    method_digest: str
    ablation: bool
    case_id: str
    input_id: str
    setting: str
    category: str
    metric: str
    version: int
    source: str
    value: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Results:
    """All scores of an evaluation; `cases_digest` says of which case set."""

    scores: tuple[Score, ...]
    cases_digest: str

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.method for s in self.scores))

    def where(self, keep: Callable[[Score], bool]) -> "Results":
        return Results(tuple(s for s in self.scores if keep(s)), self.cases_digest)

    def values(self, method: str, metric: str) -> dict[str, tuple[str, float]]:
        """Case id and value by input id, of the inputs that have one."""
        rows = (s for s in self.scores if s.method == method and s.metric == metric)
        return {s.input_id: (s.case_id, s.value) for s in rows if s.value is not None}

    def failures(self, method: str) -> dict[str, str]:
        """Inputs that the method made nothing of, and why: those without the one score that every output has."""
        rows = (s for s in self.scores if s.method == method and s.metric == _ALWAYS and s.value is None)
        return {s.input_id: s.note for s in rows}

    def notes(self, method: str, metric: str) -> list[str]:
        """Why values are missing, distinct."""
        rows = (s for s in self.scores if s.method == method and s.metric == metric and s.value is None)
        return list(dict.fromkeys(s.note for s in rows))


def paired(results: Results, a: str, b: str, metric: str) -> tuple[Scores, Scores, list[str]]:
    """Values of methods `a` and `b` on the inputs that both have, and their case ids, in the order of input ids."""
    first, second = results.values(a, metric), results.values(b, metric)
    common = sorted(first.keys() & second.keys())
    values = [np.array([side[i][1] for i in common], np.float64) for side in (first, second)]
    return values[0], values[1], [first[i][0] for i in common]


def save_results(uri: str, results: Results) -> None:
    """Write `results.parquet` at `uri`."""
    columns: dict[str, list[Any]] = {name: [] for name in RESULTS.names}
    for score in results.scores:
        for name, value in asdict(score).items():
            columns[name].append(value)
    meta = {"refine_ops.results.version": str(VERSION), "refine_ops.cases.digest": results.cases_digest}
    out = io.BytesIO()
    pq.write_table(pa.table(columns, RESULTS.with_metadata(meta)), out, compression="zstd")
    storage.write(storage.join(uri, "results.parquet"), out.getvalue())


def load_results(uri: str) -> Results:
    """Read `results.parquet` of the results folder `uri` (or the file itself).

    Raises:
        JobError: nothing is there, or it is of another version.
    """
    path = uri if uri.endswith(".parquet") else storage.join(storage.resolve(uri), "results.parquet")
    try:
        table = pq.read_table(io.BytesIO(storage.read(storage.resolve(path))))
    except (ItemError, pa.ArrowInvalid) as e:
        raise JobError(f"{path}: no results can be read there: {e}") from e
    meta = table.schema.metadata or {}
    version = meta.get(b"refine_ops.results.version", b"?").decode()
    if version != str(VERSION):
        raise JobError(f"{path}: results of version {version}; this release reads {VERSION}")
    digest = meta.get(b"refine_ops.cases.digest", b"").decode()
    rows = (row | {"metric": current_name(row["metric"])} for row in table.to_pylist())
    return Results(tuple(Score(**row) for row in rows), digest)


def merged(parts: Sequence[Results]) -> Results:
    """Results of one case set put together.

    Raises:
        JobError: the parts are of different case sets.
    """
    digests = {p.cases_digest for p in parts}
    if len(digests) != 1:
        raise JobError(f"results of {len(digests)} different case sets cannot be compared; evaluate on one set")
    return Results(tuple(s for p in parts for s in p.scores), digests.pop())
