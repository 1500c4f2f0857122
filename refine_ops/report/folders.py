"""Two folders of images, made by whatever tool, as cases."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from refine_ops import storage
from refine_ops.errors import ItemError, JobError
from refine_ops.job.planning.rows import mask_reading
from refine_ops.proof.allowed import Rules
from refine_ops.records import Region
from refine_ops.report.cases import Case
from refine_ops.report.config import FolderPair

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")


def folder_cases(pair: FolderPair) -> Iterator[Case]:
    """One case per image of `pair.before`; one without a counterpart becomes a dead letter `file.missing`.

    Raises:
        JobError: a folder is empty, or the regions file cannot be understood.
    """
    before, after = (storage.resolve(folder) for folder in (pair.before, pair.after))
    outputs = {_stem(uri, after): uri for uri in storage.list_files(after) if uri.lower().endswith(_IMAGES)}
    regions = _regions(pair.regions, before)
    sources = [uri for uri in storage.list_files(before) if uri.lower().endswith(_IMAGES)]
    if not sources:
        raise JobError(f"{before}: no {', '.join(_IMAGES)} file to compare; check folders.before")
    for uri in sources:
        stem = _stem(uri, before)
        output = outputs.get(stem, "")
        yield Case(
            run=after,
            item_id=stem,
            image=uri,
            output=output,
            rules=Rules.within(pair.reach_px),
            status="done" if output else "dead",
            reason="" if output else "file.missing",
            message="" if output else f"{after} holds no file named {stem!r}",
            regions=regions.get(stem, ()),
            judge_output=True,
            slices={"source": storage.folder_of(uri)},
        )


def _stem(uri: str, folder: str) -> str:
    return str(PurePosixPath(uri[len(folder.rstrip("/")) + 1 :]).with_suffix(""))


def _regions(uri: str | None, before: str) -> dict[str, tuple[Region, ...]]:
    if uri is None:
        return {}
    uri = storage.resolve(uri)
    if not uri.endswith((".jsonl", ".ndjson")):
        masks = (m for m in storage.list_files(uri) if m.lower().endswith(_IMAGES))
        return {_stem(m, uri): (Region("0", "", mask=m),) for m in masks}
    found: dict[str, tuple[Region, ...]] = {}
    for number, line in enumerate(storage.read(uri).decode().splitlines(), 1):
        try:
            row = json.loads(line)
            stem = str(PurePosixPath(row["image"]).with_suffix(""))
            box = tuple(int(v) for v in row["box"]) if row.get("box") else None
            mask = storage.resolve(row["mask"], storage.folder_of(uri)) if row.get("mask") else None
            if (box is None) == (mask is None) or (box is not None and len(box) != 4):
                raise ValueError("give either a box of four numbers or a mask")
            read_as = mask_reading(row, f"of {stem}", mask is not None)
        except (ValueError, KeyError, TypeError, ItemError) as e:
            raise JobError(f"{uri}, line {number}: {e!r}; expected image and box or mask") from e
        earlier = found.get(stem, ())
        region_id = str(len(earlier))
        found[stem] = (*earlier, Region(region_id, str(row.get("prompt", "")), box=box, mask=mask, **read_as))
    return found
