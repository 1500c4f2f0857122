"""Photos that somebody annotated: made files, what an import makes of them, and the pixels that its rows mark."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refine_ops.annotations.image_rows import Imported
from refine_ops.annotations.imports import import_annotations
from refine_ops.annotations.settings import ImportSettings
from refine_ops.config import ImageLimits
from refine_ops.image.region import region_mask
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item, Mask, Region

LIMITS = ImageLimits()


def photo(path: Path, size: tuple[int, int] = (64, 48), orientation: int = 1) -> Path:
    """A small picture of `size` as stored, (width, height), whose EXIF says `orientation`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).astype(np.uint8).reshape(size[1], size[0], 3)
    Image.fromarray(ramp).save(path, exif=exif)
    return path


@dataclass(frozen=True, slots=True)
class Read:
    """What an import wrote and said."""

    items: list[Item]
    found: Imported
    manifest: str

    @property
    def item(self) -> Item:
        (only,) = self.items
        return only

    @property
    def region(self) -> Region:
        (only,) = self.item.regions
        return only

    def reasons(self) -> dict[str, str]:
        """Where each remark stands in its file, and its reason."""
        return {remark.place.partition(": ")[2]: remark.reason for remark in self.found.remarks}


def imported(folder: Path, form: str, *files: Any, out: str = "manifest.jsonl", **settings: Any) -> Read:
    """Import JSON documents, texts or paths; the photos lie in `folder/photos`."""
    paths = []
    for index, file in enumerate(files):
        if not isinstance(file, Path):
            path = folder / f"given-{index}.{'json' if isinstance(file, dict | list) else 'xml'}"
            path.write_text(json.dumps(file) if isinstance(file, dict | list) else file)
            file = path
        paths.append(str(file))
    chosen = ImportSettings(**{"images": str(folder / "photos"), **settings})
    found = import_annotations(form, paths, str(folder / out), chosen)
    items = list(read_items(str(folder / out)))
    assert all(isinstance(item, Item) for item in items), items
    return Read(items, found, str(folder / out))  # type: ignore[arg-type]


def marked(region: Region, size: tuple[int, int]) -> Mask:
    """The pixels that a region of the manifest marks on an upright image of `size`."""
    return region_mask(region, size, Path(region.mask).read_bytes() if region.mask else None, LIMITS)
