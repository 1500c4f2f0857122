"""What the ledger knows of every row of a plan, as columns of fixed width: 10 million items in half a gigabyte.

A start compares what was asked for, what the stores said and what made it, and none of it needs its text: requests and
identities are 128-bit hashes already, and a ledger has few fingerprints.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.job.ledger import IDS, PART_THREADS, RANKED, listed_anew, read_parts
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.starts import void_starts

Hashes = npt.NDArray[np.void]
"""128 bits each, as `V16`."""
UNKNOWN: Final = -1
_COLUMNS: Final = ("request", "identity", "run_fingerprint")
_HEX: Final = 32
_AT_ONCE: Final = 1 << 18
"""Texts that are looked at together: each is in memory a few times over meanwhile."""
_NIBBLES: Final = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(slots=True)
class Known:
    """The latest outcome of every row of a plan, by position. `status` is an index into `statuses`, or `UNKNOWN` where
    there is no outcome; `run` is an index into `runs`, the fingerprints."""

    status: npt.NDArray[np.int8]
    request: Hashes
    identity: Hashes
    run: npt.NDArray[np.int16]
    statuses: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def has(self, status: str) -> npt.NDArray[np.bool_]:
        """Which rows have this status."""
        found: npt.NDArray[np.bool_] = self.status == (self.statuses.index(status) if status in self.statuses else -2)
        return found


def read_known(outcomes: str, plan: PlanReader) -> Known:
    """Read the ledger in `outcomes` for the rows of a plan.

    Every part is read twice, first for its ids: neither all texts of the ledger nor two of its parts per thread are in
    memory at once.

    Raises:
        JobError: as `read_ledger`.
    """
    ids = plan.columns(["item_id"])["item_id"]
    void = np.array(sorted(void_starts(storage.folder_of(outcomes))), np.int64)

    def read(uris: list[str]) -> Known:
        positions = _positions({uri: table["item_id"] for uri, table in read_parts(uris, IDS).items()}, ids)
        groups = (list(positions)[at : at + PART_THREADS] for at in range(0, len(positions), PART_THREADS))
        tables = (part for group in groups for part in read_parts(group, list(_COLUMNS)).items())
        return _gathered(len(ids), ((positions[uri], table) for uri, table in tables), void)

    return listed_anew(outcomes, read)


def known_of(ledger: pa.Table, plan: PlanReader) -> Known:
    """The same of a ledger that is in memory, with all columns."""
    ids = plan.columns(["item_id"])["item_id"]
    return _gathered(len(ids), [(_positions({"": ledger["item_id"]}, ids)[""], ledger)], np.zeros(0, np.int64))


def hashes_of(values: pa.ChunkedArray | pa.Array) -> Hashes:
    """Hexadecimal hashes of 32 digits as 16 bytes; of other texts the BLAKE2b hash."""
    if isinstance(values, pa.ChunkedArray):
        slices = (chunk.slice(at, _AT_ONCE) for chunk in values.chunks for at in range(0, len(chunk), _AT_ONCE))
        return np.concatenate([np.zeros(0, "V16"), *map(_hashes, slices)])
    return _hashes(values)


def _hashes(array: pa.Array) -> Hashes:
    found = np.zeros((len(array), 16), np.uint8)
    whole = np.asarray(pc.fill_null(pc.equal(pc.binary_length(array), _HEX), False))
    if whole.any():
        straight = array.filter(pa.array(whole)) if not whole.all() else array
        text = np.frombuffer(straight.buffers()[2], np.uint8)
        first = int(straight.offset)
        begin = int(np.frombuffer(straight.buffers()[1], np.int32)[first])
        digits = _NIBBLES[text[begin : begin + _HEX * len(straight)]].reshape(-1, _HEX)
        valid = (digits < 16).all(axis=1)
        rows = np.flatnonzero(whole)
        whole[rows[~valid]] = False
        found[rows] = (digits[:, 0::2] << 4) | (digits[:, 1::2] & 15)
    for row in np.flatnonzero(~whole):
        text_of = array[int(row)].as_py() or ""
        found[row] = np.frombuffer(hashlib.blake2b(text_of.encode(), digest_size=16).digest(), np.uint8)
    return found.view("V16").reshape(-1)


def _positions(named: dict[str, pa.ChunkedArray], ids: pa.ChunkedArray) -> dict[str, npt.NDArray[np.int32]]:
    """Where the rows of every part stand in the plan, -1 where it does not name them."""
    if not named:
        return {}
    chunks = [part.combine_chunks() for part in named.values()]
    found = pc.index_in(pa.chunked_array(chunks, pa.string()), value_set=ids.combine_chunks())
    index = np.asarray(pc.fill_null(found, -1), np.int32)
    ends = np.cumsum([len(chunk) for chunk in chunks])[:-1]
    return dict(zip(named, np.split(index, ends), strict=True))


def _gathered(rows: int, parts: Iterable[tuple[npt.NDArray[np.int32], pa.Table]], void: npt.NDArray[np.int64]) -> Known:
    known = Known(
        np.full(rows, UNKNOWN, np.int8),
        np.zeros(rows, "V16"),
        np.zeros(rows, "V16"),
        np.full(rows, UNKNOWN, np.int16),
    )
    start, done, finished = np.full(rows, -1, np.int32), np.zeros(rows, np.int8), np.zeros(rows, np.float64)
    for positions, table in parts:
        starts = np.asarray(table["start"], np.int32)
        good = np.asarray(pc.fill_null(pc.index_in(table["status"], value_set=pa.array(RANKED)), -1), np.int8)
        times = np.asarray(table["finished_at"])
        # Of several outcomes of one item in this part the last in this order is kept, as an assignment keeps it.
        order = np.lexsort((times, good, starts))
        order = order[(positions[order] >= 0) & ~np.isin(starts[order], void)]
        at = positions[order]
        last = np.zeros(len(at), bool)
        last[len(at) - 1 - np.unique(at[::-1], return_index=True)[1]] = True
        order, at = order[last], at[last]
        newer = _later(starts[order], start[at], good[order], done[at], times[order], finished[at])
        order, at = order[newer], at[newer]
        start[at], done[at], finished[at] = starts[order], good[order], times[order]
        known.status[at] = _codes(table["status"], known.statuses)[order]
        known.run[at] = _codes(table["run_fingerprint"], known.runs)[order]
        known.request[at] = hashes_of(table["request"])[order]
        known.identity[at] = hashes_of(table["identity"])[order]
    return known


def _later(*pairs: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Whether the first of every pair of keys, in order of weight, come after the second."""
    later = np.zeros(len(pairs[0]), bool)
    for mine, theirs in reversed(list(zip(pairs[0::2], pairs[1::2], strict=True))):
        later = (mine > theirs) | ((mine == theirs) & later)
    return later


def _codes(column: pa.ChunkedArray, names: list[str]) -> npt.NDArray[np.int64]:
    """Values as indices into `names`, which grows by those that are new."""
    encoded = pc.dictionary_encode(pc.fill_null(column, "")).combine_chunks()
    values = encoded.dictionary.to_pylist()
    names += [value for value in values if value not in names]
    lookup = np.array([names.index(value) for value in values] or [0], np.int64)
    codes: npt.NDArray[np.int64] = lookup[np.asarray(encoded.indices)]
    return codes
