"""Clean, annotated images to make cases of: a folder with a table `annotations`, one object a row."""

from typing import Any, Final, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from refine_ops import storage
from refine_ops.cells import pixels_of, text_of
from refine_ops.config import ImageLimits, Settings
from refine_ops.detect.config import GrabCutSegmentation
from refine_ops.detect.segment import GrabCut
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import FREE_CATEGORIES, REFERENCE_CATEGORIES, Setting
from refine_ops.image.mask import decode_mask
from refine_ops.image.read import decode_rgb
from refine_ops.records import Box, Mask, MaskReading, U8Image
from refine_ops.tables.read import open_table, place

_NAMES: Final = ("annotations.jsonl", "annotations.parquet", "annotations.csv")


class Annotation(Settings):
    """One object of one clean image; `image`, `object_mask` and `reference` are relative to the folder."""

    case_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")
    image: str
    object_box: Box = Field(description="x0, y0, x1, y1, half-open, in pixels of the upright image.")
    setting: Setting
    category: str = Field(description="Reference-based: logo, product, person. Free: body, object, face, text.")
    instruction: str = Field(min_length=1, max_length=4096)
    object_mask: str | None = Field(
        None, description="A mask, read as a manifest's; without it GrabCut finds the object."
    )
    mask_level: int | None = Field(None, ge=1, le=0xFFFF, description="Values of `object_mask` that mark start here.")
    mask_class: int | None = Field(None, ge=0, le=0xFFFF, description="The object's class in a label image.")
    mask_invert: bool = Field(False, description="`object_mask` marks all but the object.")
    reference: str | None = None
    text: str = Field("", description="What should be read in the box, for text accuracy.")
    format: str = Field("png", pattern="^(png|jpeg)$", description="Of the degraded inputs.")
    source: str = Field(description="Where the image is from: title, author, URL.")
    source_sha256: str = Field("", description="Of the file the image was cut from; empty: of the image itself.")
    licence: str = Field(description="SPDX id or a phrase; without one the case is refused.", min_length=2)

    @field_validator("object_box", mode="before")
    @classmethod
    def _box(cls, value: Any) -> Any:
        return pixels_of(value) or value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = REFERENCE_CATEGORIES if self.setting == "reference" else FREE_CATEGORIES
        if self.category not in expected:
            raise ValueError(f"category {self.category!r}; setting {self.setting!r} knows {', '.join(expected)}")
        if (self.reference is not None) != (self.setting == "reference"):
            raise ValueError(f"setting {self.setting!r} and reference {self.reference!r} contradict each other")
        return self


def read_annotations(folder: str) -> tuple[list[Annotation], dict[str, str]]:
    """All rows of `FOLDER/annotations.jsonl` (or `.parquet`, `.csv`), and why others are left out, by id or line.

    Raises:
        JobError: there is no such table, or not one usable row in it.
    """
    uris = [storage.join(folder, name) for name in _NAMES]
    uri = next(filter(storage.exists, uris), uris[0])
    rows: dict[str, Annotation] = {}
    faults: dict[str, str] = {}
    for row in open_table(uri, None).rows():
        where = f"{uri}, {place(uri, row.number)}"
        try:
            if row.problem:
                raise ItemError("row.unreadable", row.problem)
            found = Annotation.model_validate({name: text_of(value) for name, value in row.values.items()})
        except (ItemError, ValidationError) as e:
            faults[where] = str(e)
            continue
        if found.case_id in rows:
            faults[where] = f"case_id {found.case_id!r} was given before; ids must be unique"
        else:
            rows[found.case_id] = found
    if not rows:
        raise JobError("; ".join(f"{where}: {fault}" for where, fault in faults.items()) or f"{uri}: no case")
    return list(rows.values()), faults


def read_object(folder: str, row: Annotation, limits: ImageLimits) -> tuple[U8Image, Mask, bytes]:
    """The clean image, its object's mask (inside the box), and the image file's bytes.

    Raises:
        ItemError: unreadable files, a box outside the image, no object found in it.
    """
    data = storage.read(storage.join(folder, row.image), limits.max_bytes)
    image = decode_rgb(data, name=row.image, limits=limits)
    height, width = image.shape[:2]
    x0, y0, x1, y1 = row.object_box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ItemError("box.outside", f"case {row.case_id}: box {row.object_box} is not in {width} x {height}")
    if row.object_mask is None:
        found = GrabCut(GrabCutSegmentation()).segment(image, row.object_box, "").mask
    else:
        mask_data = storage.read(storage.join(folder, row.object_mask), limits.max_bytes)
        reading = MaskReading(row.mask_level, row.mask_class, row.mask_invert)
        found = decode_mask(mask_data, name=row.object_mask, size=(width, height), limits=limits, reading=reading)
    inside = np.zeros_like(found)
    inside[y0:y1, x0:x1] = found[y0:y1, x0:x1]
    if not inside.any():
        raise ItemError("mask.empty", f"case {row.case_id}: the object's mask marks nothing in its box")
    return image, inside, data
