"""A manifest as it is written: Parquet or JSONL row by row, with its masks in a folder beside it."""

import json
import posixpath
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.job.planning.manifest import SCHEMA

_ROWS: Final = 8192
_MASKS: Final = ".masks"


class ManifestFile:
    """Use as a context: the manifest appears at `uri` at the end, whole, and not at all after an error.

    A mask is named by its own bytes, so that importing once more changes nothing that stayed the same.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.masks = f"{posixpath.splitext(uri)[0]}{_MASKS}"
        self._parquet = uri.lower().endswith(".parquet")
        if not self._parquet and not uri.lower().endswith((".jsonl", ".ndjson")):
            raise JobError(f"{uri}: a manifest is written as .parquet or .jsonl")
        self._rows: list[dict[str, Any]] = []
        self._written: set[str] = set()

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory()
        self._local = Path(self._scratch.name) / "manifest"
        self._file = pq.ParquetWriter(self._local, SCHEMA, compression="zstd") if self._parquet else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            if self._file is not None:
                self._file.close()
            if kind is None:
                storage.write(self.uri, self._local.read_bytes())
        finally:
            self._scratch.cleanup()

    def add(self, row: dict[str, Any]) -> None:
        """One row of the nested form."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def add_mask(self, data: bytes) -> str:
        """Write a mask's PNG; returns what a row calls it."""
        digest = storage.sha256(data)[:24]
        name = f"{digest[:2]}/{digest}.png"
        if name not in self._written:
            storage.write(storage.join(self.masks, name), data)
            self._written.add(name)
        return f"{posixpath.basename(self.masks)}/{name}"

    def spelled(self, uri: str) -> str:
        """What a row calls a file: relative where it lies below the manifest's folder."""
        return storage.relative(uri, storage.folder_of(self.uri))

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if self._file is not None:
            self._file.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            return
        with self._local.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
