"""Parquet, as pandas, polars and others write it."""

import itertools
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.tables.table import Row, Table, check_columns, present_rows

_BATCH_ROWS: Final = 8192
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")


def parquet_table(uri: str, known: Collection[str] | None, data: bytes | None) -> Table:
    if data is None and storage.is_s3(uri):
        data = storage.read(uri)
    try:
        file = pq.ParquetFile(uri if data is None else pa.BufferReader(data))
    except FileNotFoundError as e:
        raise storage.missing(uri) from e
    except (pa.ArrowException, OSError) as e:
        raise JobError(f"{uri}: not a readable Parquet file: {e}") from e
    index = {n for n in (file.schema_arrow.pandas_metadata or {}).get("index_columns", ()) if isinstance(n, str)}
    names = [n for n in file.schema_arrow.names if n in (known or ()) or not (n in index or _PANDAS_INDEX.fullmatch(n))]
    check_columns(uri, names, known)

    def rows() -> Iterator[Row]:
        with _readable(uri):
            batches = (batch.to_pylist() for batch in file.iter_batches(_BATCH_ROWS, columns=names))
            yield from present_rows(enumerate(itertools.chain.from_iterable(batches)))

    def gathered(column: str) -> Iterator[Row]:
        with _readable(uri):
            table = _without_views(file.read(columns=names))
        order = _gathering(table[column])
        for start in range(0, len(order), _BATCH_ROWS):
            chunk = order[start : start + _BATCH_ROWS]
            yield from present_rows(zip(chunk.tolist(), table.take(pa.array(chunk)).to_pylist(), strict=True))

    return Table(tuple(names), rows, gathered)


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise JobError(f"{uri}: damaged Parquet file: {e}") from e


def _without_views(table: pa.Table) -> pa.Table:
    """Text in Arrow's view layout, which polars writes and `take` does not know, in the usual one."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return table.cast(pa.schema([field.with_type(plain.get(field.type, field.type)) for field in table.schema]))


def _gathering(column: pa.ChunkedArray) -> Any:
    """Row numbers in which equal values follow each other: a stable sort on first appearance."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)  # its own codes may be unsigned, or differ between row groups
    codes = pc.dictionary_encode(column.combine_chunks()).indices.cast(pa.int64())
    return np.argsort(np.asarray(codes.fill_null(-1)), kind="stable")
