"""Two folders of images, made by whatever tool, as items."""

import posixpath
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from refine_ops import storage
from refine_ops.cells import pixels_of
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.native import IMAGE_SUFFIXES
from refine_ops.job.planning.rows import mask_reading
from refine_ops.proof.allowed import Rules
from refine_ops.records import Region
from refine_ops.report.config import FolderPair
from refine_ops.report.run_items import ReportedItem
from refine_ops.tables.read import open_table, place

_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq")


def folder_items(pair: FolderPair) -> Iterator[ReportedItem]:
    """One item per image of `pair.before`; one without a counterpart becomes a dead letter
    `file.missing`, one whose row of regions cannot be understood `regions.invalid`.

    Raises:
        JobError: a folder is empty, or no row of the regions file can be understood.
    """
    before, after = (storage.resolve(folder) for folder in (pair.before, pair.after))
    outputs = {_stem(uri, after): uri for uri in storage.list_files(after) if uri.lower().endswith(IMAGE_SUFFIXES)}
    marked = _regions(pair.regions, before)
    sources = [(_stem(uri, before), uri) for uri in storage.list_files(before) if uri.lower().endswith(IMAGE_SUFFIXES)]
    if not sources:
        raise JobError(f"{before}: no {', '.join(IMAGE_SUFFIXES)} file to compare; check folders.before")
    nowhere = marked.faults.keys() - {stem for stem, _ in sources}
    for stem, uri in [*sources, *((where, "") for where in sorted(nowhere))]:
        output = outputs.get(stem, "")
        reason, message = ("", "") if output else ("file.missing", f"{after} holds no file named {stem!r}")
        if stem in marked.faults:
            reason, message = "regions.invalid", marked.faults[stem]
        yield ReportedItem(
            run=after,
            item_id=stem,
            image=uri,
            output=output,
            rules=Rules.within(pair.reach_px),
            status="dead" if reason else "done",
            reason=reason,
            message=message,
            regions=marked.regions.get(stem, ()),
            drift_from_output=True,
            slices={"source": storage.folder_of(uri)} if uri else {},
        )


def _stem(uri: str, folder: str) -> str:
    """Name without suffix below `folder`, composed: the other folder may have been written on macOS."""
    return _composed(uri[len(folder.rstrip("/")) + 1 :])


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


@dataclass(frozen=True, slots=True)
class _Marked:
    """Regions by stem, and what is wrong with rows, by stem or, where they name no image, by place."""

    regions: dict[str, tuple[Region, ...]]
    faults: dict[str, str]


def _regions(uri: str | None, before: str) -> _Marked:
    if uri is None:
        return _Marked({}, {})
    uri = storage.resolve(uri)
    if not uri.lower().endswith(_TABLES):
        masks = (m for m in storage.list_files(uri) if m.lower().endswith(IMAGE_SUFFIXES))
        return _Marked({_stem(m, uri): (Region("0", "", mask=m),) for m in masks}, {})
    found: dict[str, tuple[Region, ...]] = {}
    faults: dict[str, str] = {}
    for row in open_table(uri, None).rows():
        image = row.values.get("image")
        stem = _composed(image) if isinstance(image, str) else f"{posixpath.basename(uri)}, {place(uri, row.number)}"
        earlier = found.get(stem, ())
        try:
            if row.problem:
                raise ItemError("row.unreadable", row.problem)
            found[stem] = (*earlier, _region(row.values, str(len(earlier)), storage.folder_of(uri)))
        except ItemError as e:
            faults[stem] = f"{uri}, {place(uri, row.number)}: {e}; expected image and box or mask"
    if faults and not found:
        raise JobError(next(iter(faults.values())))
    return _Marked(found, faults)


def _region(values: Mapping[str, Any], region_id: str, folder: str) -> Region:
    if not isinstance(values.get("image"), str):
        raise ItemError("image.missing", "no image is named")
    box, mask = values.get("box"), values.get("mask")
    corners = None if box is None else pixels_of(box)
    if (box is None) == (mask is None) or (box is not None and corners is None):
        raise ItemError(
            "region.shape", f"box {box!r}, mask {mask!r}: give either a box of four whole numbers or a mask"
        )
    found = None if corners is None else (corners[0], corners[1], corners[2], corners[3])
    uri = None if mask is None else storage.spelled_as_stored(storage.resolve(str(mask), folder))
    read_as = mask_reading(values, region_id, mask is not None)
    return Region(region_id, str(values.get("prompt", "")), box=found, mask=uri, **read_as)
