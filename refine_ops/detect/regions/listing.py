"""Which images are looked at: a folder, a prefix or a table, read once and written down as the plan."""

import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.cells import forging_character, text_of
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.native import IMAGE_SUFFIXES
from refine_ops.job.planning.rows import MAX_ID_CHARS
from refine_ops.tables.read import open_table, place

_TABLE_SUFFIXES: Final = (".parquet", ".pq", ".jsonl", ".ndjson", ".csv", ".tsv")
_COLUMNS: Final = ("item_id", "image", "category")
PLAN: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image to look at, by URI; `reason` and `message` say why it cannot be, where that is known already."""

    item_id: str
    image: str
    category: str = ""
    reason: str = ""
    message: str = ""


def plan_of(config: DetectRegionsConfig) -> pa.Table:
    """All images in order, as `PLAN`.

    Raises:
        JobError: there is none, the source cannot be listed, or an item id is there twice.
    """
    wanted = (one for one in _listed(config) if _wanted(one, config))
    rows = list(islice(wanted, config.limit))
    if not rows:
        among = " that include and exclude leave" if config.include or config.exclude else ""
        raise JobError(f"{config.source}: holds no image{among} ({', '.join(IMAGE_SUFFIXES)})")
    names: dict[str, str] = {}
    for row in rows:
        if other := names.get(row.item_id):
            raise JobError(f"{config.source}: item_id {row.item_id!r} names both {other} and {row.image}")
        names[row.item_id] = row.image
    columns = {name: [getattr(row, name) for row in rows] for name in PLAN.names}
    return pa.table(columns, schema=PLAN)


def encoded(plan: pa.Table) -> bytes:
    """The plan as Parquet."""
    sink = io.BytesIO()
    pq.write_table(plan, sink, compression="zstd")
    return sink.getvalue()


def images_of(plan: pa.Table, start: int, count: int) -> list[ListedImage]:
    """Some of the plan's images."""
    return [ListedImage(**row) for row in plan.slice(start, count).to_pylist()]


def image_of(config: DetectRegionsConfig, plan: pa.Table, item: str) -> ListedImage:
    """The image with this item id, or of this path.

    Raises:
        JobError: the source has no such image.
    """
    for row in plan.to_pylist():
        if item in (row["item_id"], row["image"]) or row["image"] == storage.resolve(item):
            return ListedImage(**row)
    raise JobError(f"{item!r} is none of the {plan.num_rows:,} images of {config.source}")


def _listed(config: DetectRegionsConfig) -> Iterator[ListedImage]:
    try:
        source = storage.resolve(config.source)
    except ItemError as e:
        raise JobError(f"source: {e}") from e
    if source.lower().endswith(_TABLE_SUFFIXES):
        yield from _of_table(source, config)
    else:
        yield from _of_folder(source, config)


def _of_folder(source: str, config: DetectRegionsConfig) -> Iterator[ListedImage]:
    out = storage.resolve(config.out)
    if out == source:
        raise JobError(f"out is the source itself ({out}); name another folder")
    found = [
        uri
        for uri in storage.list_files(source)
        # What an earlier start drew, where the results lie below the photos.
        if uri.lower().endswith(IMAGE_SUFFIXES) and not uri.startswith(f"{out.rstrip('/')}/")
    ]
    stems: dict[str, int] = {}
    for uri in found:
        stem = posixpath.splitext(_below(uri, source))[0]
        stems[stem] = stems.get(stem, 0) + 1
    for uri in found:
        name = _below(uri, source)
        stem = posixpath.splitext(name)[0]
        yield _checked(stem if stems[stem] == 1 else name, uri, "")


def _below(uri: str, source: str) -> str:
    return uri[len(source.rstrip("/")) + 1 :]


def _of_table(source: str, config: DetectRegionsConfig) -> Iterator[ListedImage]:
    base = storage.folder_of(source)
    for row in open_table(source, _COLUMNS).rows():
        where = f"{source}, {place(source, row.number)}"
        if row.problem:
            raise JobError(f"{source}, {row.problem}")
        image = row.values.get("image")
        if not isinstance(image, str) or not image.strip():
            raise JobError(f"{where}: image is {image!r}; give a local path, file:// or s3://bucket/key")
        item_id = text_of(row.values.get("item_id")) or posixpath.splitext(image)[0]
        category = text_of(row.values.get("category", "")) or ""
        try:
            uri = storage.resolve(image, base)
            storage.check_access(uri, config.access)
        except ItemError as e:
            yield ListedImage(_safe(str(item_id)), _safe(image), "", e.reason, str(e))
            continue
        yield _checked(str(item_id), uri, str(category))


def _checked(item_id: str, uri: str, category: str) -> ListedImage:
    if (forging := forging_character(item_id + category)) or len(item_id) > MAX_ID_CHARS:
        what = f"holds {forging}" if forging else f"has more than {MAX_ID_CHARS} characters"
        return ListedImage(
            _safe(item_id), _safe(uri), "", "item_id.invalid", f"{_safe(item_id)[:80]!r} {what}; rename it"
        )
    return ListedImage(item_id, uri, category)


def _safe(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_ID_CHARS]


def _wanted(one: ListedImage, config: DetectRegionsConfig) -> bool:
    """By the path below the source, or of a table's row by the whole path."""
    source = storage.resolve(config.source)
    name = _below(one.image, source) if one.image.startswith(f"{source.rstrip('/')}/") else one.image
    if config.include and not any(fnmatchcase(name, pattern) for pattern in config.include):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in config.exclude)
