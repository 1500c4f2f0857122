"""Encoded samples on disk: tensors under the digest of what they were made from, in safetensors shards.

    CACHE/<shard>.safetensors   tensors by address
    CACHE/<shard>.parquet       the entries that are complete with this shard; written last

A tensor is stored once however many samples share it (a reference image, a target at the same crop). A shard without
its Parquet file is the rest of a killed run: it is ignored and written over. The cache must be a local folder: tensors
are mapped, not copied.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save

from refine_ops import storage
from refine_ops.errors import JobError

SHARD_BYTES: Final = 512 << 20
_SIZES: Final = pa.list_(pa.list_(pa.int32(), 2))
_ENTRIES: Final = pa.schema(
    [
        pa.field("key", pa.string(), False),
        pa.field("images", pa.list_(pa.string()), False),
        pa.field("sizes", _SIZES, False),
        pa.field("target", pa.string(), False),
        pa.field("prompt", pa.string(), False),
        pa.field("text_tokens", pa.int32(), False),
        pa.field("regions", pa.string(), False),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded crop. Addresses name tensors; `sizes` are `(width, height)` px of `images`, crop first.

    `images` and `target` are latents `(C, h, w)`, `prompt` is `(L, D)`; `regions` is `uint8 (2, ceil(h * w / 8))`, the
    mask and the paste support as packed bits.
    """

    key: str
    images: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    target: str
    prompt: str
    text_tokens: int
    regions: str


class EncodedCache:
    """Reads any number of processes' shards and writes one process's own; `refresh` sees what others wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, Path] = {}
        self._shards: set[Path] = set()
        self._open: dict[Path, Any] = {}
        self._pending: dict[str, torch.Tensor] = {}
        self._finished: list[Entry] = []
        self._pending_bytes = 0
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a process that gets a copy maps the shards anew

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def entry(self, key: str) -> Entry:
        return self._entries[key]

    def has(self, address: str) -> bool:
        """Whether the tensor is stored, or about to be."""
        return address in self._places or address in self._pending

    def tensor(self, address: str) -> torch.Tensor:
        """The stored tensor, on the CPU.

        Raises:
            JobError: it is not in any shard; the cache was damaged.
        """
        if address in self._pending:
            return self._pending[address]
        path = self._places.get(address)
        if path is None:
            raise JobError(f"{self._folder}: tensor {address} is missing; remove the folder and encode again")
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        stored: torch.Tensor = self._open[path].get_tensor(address)
        return stored

    def put(self, address: str, tensor: torch.Tensor) -> None:
        """Keep a tensor for the next shard."""
        stored = tensor.detach().to("cpu").contiguous()
        self._pending[address] = stored
        self._pending_bytes += stored.nbytes

    def finish(self, entry: Entry) -> None:
        """Record an entry whose tensors are all stored or pending; a full shard is written."""
        self._finished.append(entry)
        self._entries[entry.key] = entry
        if self._pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending: the tensors, then the Parquet file that makes them count."""
        if not self._finished:
            return
        name = hashlib.sha256("".join(entry.key for entry in self._finished).encode()).hexdigest()[:24]
        shard = self._folder / f"{name}.safetensors"
        storage.write(str(shard), save(self._pending))
        table = pa.Table.from_pylist([asdict(entry) for entry in self._finished], _ENTRIES)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        storage.write(str(shard.with_suffix(".parquet")), sink.getvalue())
        self._places |= dict.fromkeys(self._pending, shard)
        self._shards.add(shard)
        self._pending, self._finished, self._pending_bytes = {}, [], 0

    def refresh(self) -> None:
        """Take in the complete shards that this process has not read yet."""
        for index in sorted(self._folder.glob("*.parquet")):
            shard = index.with_suffix(".safetensors")
            if shard in self._shards:
                continue
            with safe_open(shard, framework="pt") as file:
                self._places |= dict.fromkeys(file.keys(), shard)
            for row in pq.read_table(index).to_pylist():
                self._entries[row["key"]] = _entry(row)
            self._shards.add(shard)


def address(*parts: str | bytes | Iterable[int]) -> str:
    """Digest of what a tensor is made from."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part if isinstance(part, str) else tuple(part)).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        key=row["key"],
        images=tuple(row["images"]),
        sizes=tuple((width, height) for width, height in row["sizes"]),
        target=row["target"],
        prompt=row["prompt"],
        text_tokens=row["text_tokens"],
        regions=row["regions"],
    )
