"""Which samples will be tried, in which split and with which seed: decided once, before any work, and stored.

A sample's id, seed and split depend on the manifest and the configuration only, never on ranks, order or time.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.data.source_manifest import SourceRow
from refine_ops.errors import ItemError, JobError

_READ_THREADS = 8

_ROW = pa.struct(
    [
        ("source_id", pa.string()),
        ("image", pa.string()),
        ("reference", pa.string()),
        ("box", pa.list_(pa.int32())),
        ("reference_box", pa.list_(pa.int32())),
        ("description", pa.string()),
        ("families", pa.list_(pa.string())),
        ("licence", pa.string()),
        ("problem", pa.list_(pa.string())),
    ]
)
PLAN = pa.schema(
    [
        ("sample_id", pa.string()),
        ("split", pa.string()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("row", _ROW),
        ("image_sha256", pa.string()),
        ("reference_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample to try. `row` is None for the synthetic source, where `index` alone determines it."""

    sample_id: str
    split: str
    seed: int
    index: int
    row: SourceRow | None = None
    image_sha256: str = ""
    reference_sha256: str = ""

    @property
    def source_id(self) -> str:
        return self.row.source_id if self.row else self.sample_id


Shards = Mapping[int, Sequence[PlannedSample]]
"""Part number -> its samples, in order."""


def sample_seed(seed: int, sample_id: str) -> int:
    """63 bits from the set's seed and the sample's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()[:8], "big") >> 1


def plan_synthetic(count: int, seed: int, validation_share: float) -> list[PlannedSample]:
    """Sample i is i whatever `count` is; purity comes from rendering either split from photos of its own."""
    ids = [f"synthetic-{i:07d}" for i in range(count)]
    splits = ["validation" if _unit(f"{seed}/{i}") < validation_share else "train" for i in ids]
    return [
        PlannedSample(s, split, sample_seed(seed, s), i) for i, (s, split) in enumerate(zip(ids, splits, strict=True))
    ]


def plan_rows(
    rows: Sequence[SourceRow], samples_per_row: int, seed: int, validation_share: float, limits: ImageLimits
) -> list[PlannedSample]:
    """`samples_per_row` samples of every row, split by groups of rows that share an image, by content."""
    hashed = _hash_images(rows, limits)
    usable = [_with_problem(row, hashed) for row in rows]
    links = [
        tuple(h for h in (hashed.get(r.image), hashed.get(r.reference or "")) if isinstance(h, str)) for r in usable
    ]
    split_of = split_groups(links, seed, validation_share)
    return [
        PlannedSample(
            sample_id := f"{row.source_id}-{k:03d}",
            split_of.get(link[0], "train") if link else "train",
            sample_seed(seed, sample_id),
            index * samples_per_row + k,
            row,
            link[0] if link else "",
            link[1] if len(link) > 1 else "",
        )
        for index, (row, link) in enumerate(zip(usable, links, strict=True))
        for k in range(samples_per_row)
    ]


def split_groups(links: Iterable[tuple[str, ...]], seed: int, validation_share: float) -> dict[str, str]:
    """Image hash -> split, equal for all images that any chain of rows connects.

    A group validates when its hash falls below the share, so that more rows move no other group. With a share above 0
    and two groups or more, the group with the lowest hash always validates and the one with the highest always trains.
    """
    parent: dict[str, str] = {}

    def root(x: str) -> str:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for link in links:
        for other in link:
            a, b = sorted((root(link[0]), root(other)))
            parent[b] = a  # the smallest hash names the group, whatever the order of rows
    draws = {group: _unit(f"{seed}/{group}") for group in {root(x) for x in parent}}
    validating = {g for g, u in draws.items() if u < validation_share}
    if validation_share > 0 and len(draws) > 1:
        ranked = sorted(draws, key=draws.__getitem__)
        validating = (validating | {ranked[0]}) - {ranked[-1]}
    return {x: "validation" if root(x) in validating else "train" for x in list(parent)}


def to_table(planned: Sequence[PlannedSample]) -> pa.Table:
    return pa.Table.from_pylist([asdict(c) for c in planned], schema=PLAN)


def from_table(table: pa.Table) -> list[PlannedSample]:
    """Inverse of `to_table`.

    Raises:
        JobError: not a plan of this version.
    """
    if not table.schema.equals(PLAN):
        raise JobError(
            f"plan.parquet has another schema than this version writes: {table.schema.names}; use a new folder"
        )
    return [PlannedSample(**{**c, "row": _source_row(c["row"])}) for c in table.to_pylist()]


def _source_row(values: Mapping[str, object] | None) -> SourceRow | None:
    if values is None:
        return None
    listed = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return SourceRow(**listed)  # type: ignore[arg-type]


def _hash_images(rows: Sequence[SourceRow], limits: ImageLimits) -> dict[str, str | ItemError]:
    """URI -> SHA-256 of the file, or why it cannot be read."""
    uris = sorted({u for r in rows if r.problem is None for u in (r.image, r.reference) if u})

    def digest(uri: str) -> str | ItemError:
        try:
            return storage.sha256(storage.read(uri, limits.max_bytes))
        except ItemError as e:
            return e

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return dict(zip(uris, pool.map(digest, uris), strict=True))


def _with_problem(row: SourceRow, hashed: Mapping[str, str | ItemError]) -> SourceRow:
    for uri in (row.image, row.reference):
        found = hashed.get(uri or "")
        if row.problem is None and isinstance(found, ItemError):
            return replace(row, problem=(found.reason, str(found)))
    return row


def _unit(text: str) -> float:
    """Uniform in [0, 1), from a hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
