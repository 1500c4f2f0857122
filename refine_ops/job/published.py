"""The published set: which outputs may be used. Snapshots in `published/`, committed once per start.

    published/00000042.parquet   every item that may be used: its plain name, its object, the object's SHA-256
    current/                     in a local folder: the newest snapshot under plain names, as hard links

Outputs are immutable and lie under the start that made them; a snapshot is created only if absent, and the newest one
counts, so that removed, dead, altered and canary outputs end there, a redo is a pointer flip, and an older snapshot can
be committed again. What is held is not published; what was published of the same source before may stay (`staying`).
"""

import contextlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.errors import ItemError, JobError

SCHEMA: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("object", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
    ],
    metadata={"refine_ops.published": "1"},
)
"""`name` is where the item stands for its user, `object` where its bytes lie below the run folder, made by `start`."""

_NAME: Final = re.compile(r"(\d{8})\.parquet")


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What may be used after `start`; rows are in `item_id` order."""

    start: int
    table: pa.Table

    def objects(self) -> dict[str, str]:
        """Plain name to object."""
        return dict(zip(self.table["name"].to_pylist(), self.table["object"].to_pylist(), strict=True))


def compose(ledger: pa.Table, planned: pa.Array, stays: pa.Table | None = None) -> pa.Table:
    """The snapshot that a ledger calls for: the latest outcome of every planned item, where it is done; of a held one
    what stays of before, or the copy of its source where it left one.

    Args:
        ledger: The latest outcome per item, with the columns of `LEDGER_COLUMNS`.
        planned: Item ids that the present manifest names.
        stays: Rows of the snapshot before, from `staying`.

    Raises:
        JobError: two items would stand under one name.
    """
    # What the manifest no longer names is out; its file stays until it is pruned.
    stays = SCHEMA.empty_table() if stays is None else stays
    stays = stays.filter(pc.is_in(stays["item_id"], value_set=planned))
    left = pc.and_(pc.equal(ledger["status"], "held"), pc.not_equal(ledger["object"], ""))
    left = pc.and_not(left, pc.is_in(ledger["item_id"], value_set=stays["item_id"].combine_chunks()))
    usable = pc.or_(pc.equal(ledger["status"], "done"), left)
    done = ledger.filter(pc.and_(usable, pc.is_in(ledger["item_id"], value_set=planned)))
    hashes = pa.array([bytes.fromhex(h) for h in done["output_sha256"].to_pylist()], pa.binary(32))
    table = pa.table(
        {
            "item_id": done["item_id"],
            "name": done["output"],
            "object": done["object"],
            "sha256": hashes,
            "bytes": done["output_bytes"],
            "fingerprint": done["fingerprint"],
            "start": done["start"],
        }
    ).cast(SCHEMA)
    table = pa.concat_tables([table, stays.cast(SCHEMA)]).sort_by("item_id").replace_schema_metadata(SCHEMA.metadata)
    _refuse_shared_names(table)
    return table


def staying(before: pa.Table, held: pa.Table, history: pa.Table) -> pa.Table:
    """Rows of the snapshot before that still stand although their items are held now.

    An output stays where it shows the very source, was asked for in the same way (a person who rejected it has changed
    that), and was itself accepted, by a gate or a person: then a later model's worse try says nothing against it. One
    that nobody ever judged ends.

    Args:
        held: The latest outcomes that are held: `item_id, source_sha256, request`.
        history: All done outcomes ever of these items: `item_id, object, source_sha256, request, regions`.
    """
    now = {row["item_id"]: (row["source_sha256"], row["request"]) for row in held.to_pylist()}
    good = {
        (row["item_id"], row["object"])
        for row in history.to_pylist()
        if (row["source_sha256"], row["request"]) == now.get(row["item_id"])
        and all(region["ruling"] is not None for region in row["regions"])
    }
    pairs = zip(before["item_id"].to_pylist(), before["object"].to_pylist(), strict=True)
    return before.filter(pa.array([pair in good for pair in pairs], pa.bool_()))


LEDGER_COLUMNS: Final = ("status", "output", "object", "output_sha256", "output_bytes", "fingerprint", "start")


def commit(run: str, start: int, table: pa.Table) -> Snapshot:
    """Make `table` what may be used, all at once. Committing the same again changes nothing.

    Raises:
        JobError: another snapshot of this start exists, or it cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    uri = _path(run, start)
    try:
        # The one write that publishes: before it the old set holds, after it the new one, and none can be half there.
        storage.write(uri, sink.getvalue().to_pybytes(), only_if_absent=True)
    except ItemError as e:
        raise JobError(f"{uri} exists and differs: start {start} has published already; begin a new start") from e
    return Snapshot(start, table)


def newest(run: str) -> Snapshot | None:
    """What may be used now; None before the first commit.

    Raises:
        JobError: the newest snapshot is there but cannot be read.
    """
    numbers = committed(run)
    return read(run, numbers[-1]) if numbers else None


def committed(run: str) -> list[int]:
    """Starts that committed a snapshot, oldest first."""
    names = (uri.rsplit("/", 1)[-1] for uri in storage.list_files(storage.join(run, "published"), ".parquet"))
    return sorted(int(m[1]) for name in names if (m := _NAME.fullmatch(name)))


def read(run: str, start: int) -> Snapshot:
    """The snapshot that `start` committed.

    Raises:
        JobError: it is absent or cannot be read.
    """
    uri = _path(run, start)
    try:
        table = pq.read_table(pa.BufferReader(storage.read(uri)))
    except (ItemError, pa.ArrowException, OSError) as e:
        raise JobError(f"{uri} cannot be read ({e}); what may be used is not known without it: restore it") from e
    if (version := (table.schema.metadata or {}).get(b"refine_ops.published")) != b"1":
        raise JobError(f"{uri} is of version {version!r}, this release reads version 1; use the release that wrote it")
    return Snapshot(start, table)


def link_current(run: str, snapshot: Snapshot) -> None:
    """Stand the snapshot's files under plain names in `current/` of a local run folder (S3: nothing to do).

    The new tree is made beside the old one and takes its place in one rename of a link, so that whoever lists
    `current/` sees one snapshot or the other. Where the file system knows no hard links, files are copied.
    """
    if storage.is_s3(run):
        return
    folder, current = Path(run), Path(run) / "current"
    tree = folder / ".current" / f"{snapshot.start:08d}-{uuid.uuid4().hex[:8]}"
    tree.mkdir(parents=True)
    for name, at in snapshot.objects().items():
        target = tree / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # lost since: `verify` finds it, and it is remade
            _link(folder / PurePosixPath(at), target)
    link = folder / f".current-{uuid.uuid4().hex[:8]}"
    # Relative, so that a run folder may be moved or mounted elsewhere.
    link.symlink_to(tree.relative_to(folder), target_is_directory=True)
    os.replace(link, current)
    # Trees of killed starts too; hard links, so their files live on wherever else they are named.
    for old in tree.parent.iterdir():
        if old != tree:
            shutil.rmtree(old, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # no hard links here, or too many of this file
        shutil.copy2(source, target)


def _refuse_shared_names(table: pa.Table) -> None:
    counts = pc.value_counts(table["name"].combine_chunks()) if table.num_rows else []
    shared = [c["values"].as_py() for c in counts if c["counts"].as_py() > 1]
    if shared:
        raise JobError(f"{len(shared)} names would stand for two items each, {shared[0]!r} among them; rename one")


def _path(run: str, start: int) -> str:
    return storage.join(run, "published", f"{start:08d}.parquet")
