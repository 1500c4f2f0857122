"""What was drawn on an image as a row of a manifest: turned upright, clipped, with its mask written."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Final

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.annotations.formats.table import Format
from refine_ops.annotations.frame import in_frame, orientation_left
from refine_ops.annotations.images import Header, ImageRoot, read_header
from refine_ops.annotations.manifest_file import ManifestFile
from refine_ops.annotations.settings import ImportSettings, LabelRule
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    MaskFile,
    Outline,
    Painted,
    Rectangle,
    Remark,
    Shape,
    bounds,
    filled,
    overlap,
    scaled,
    simplest,
    upright_shape,
)
from refine_ops.errors import ItemError, JobError
from refine_ops.image.mask import decode_mask
from refine_ops.image.region import tight_box
from refine_ops.image.source import upright
from refine_ops.job.planning.rows import MAX_REGIONS, RowProblem, parse_row
from refine_ops.records import Item, Mask

_NO_LABEL: Final = "region"
Given = tuple[str, DrawnImage]
"""An annotation file, and what it says of one image."""
_Placed = tuple[str, dict[str, Any]]
"""Where a region stands in its file, and the region as a manifest has it."""
_PLAIN_REGION: Final = {"box": [0, 0, 1, 1], "prompt": "x"}
SHOWN: Final = 1000
"""Remarks that are kept; the others are counted."""


@dataclass(slots=True)
class Imported:
    """What came of it. `counts` has every reason with how often it was met, `remarks` the first of each."""

    items: int = 0
    regions: int = 0
    clipped: int = 0
    unmarked: int = 0
    left_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[Remark] = field(default_factory=list)

    def note(self, remark: Remark) -> None:
        self.counts[remark.reason] += 1
        self.left_out += remark.left_out
        if len(self.remarks) < SHOWN:
            self.remarks.append(remark)

    def describe(self) -> str:
        """For people."""
        said = [f"{self.regions:,} regions of {self.items:,} images"]
        if self.unmarked:
            said.append(f"{self.unmarked:,} images without annotations are not in it")
        if self.clipped:
            said.append(f"{self.clipped:,} regions reached outside their image and were clipped")
        said += [f"{count:,} x {reason}" for reason, count in self.counts.most_common()]
        return "\n".join(said)


class RowMaker:
    """Makes manifest rows of what was drawn."""

    def __init__(
        self, settings: ImportSettings, root: ImageRoot, target: ManifestFile, found: Imported, form: Format
    ) -> None:
        self._settings, self._root, self._target = settings, root, target
        self._found, self._form = found, form
        self._references = ImageRoot(settings.references) if settings.references else None
        self._ids: dict[str, int] = {}

    def add(self, uri: str, given: list[Given], header: Header | ItemError) -> None:
        """The row of one image, if anything of it can be refined."""
        found, first = self._found, given[0][1]
        place = full_place(given[0][0], first.place)
        if isinstance(header, ItemError):
            found.note(Remark.of(place, header))
            return
        people = {drawn.annotator for _, image in given for drawn in image.drawn}
        if len(people) > 1:
            said = f"{len(people)} people annotated it, all they drew is taken; --annotators latest takes the last's"
            found.note(Remark(place, "annotators.several", said, left_out=False))
        regions, too_many = self._regions(given, header, several=len(people) > 1)
        if too_many:
            said = f"{too_many:,} regions are left out: one image has {MAX_REGIONS} at most"
            found.note(Remark(place, "regions.too_many", said))
        if len({file for file, _ in given}) > 1 and not self._form.stems:
            said = f"{len(given)} entries in several files name this image; what all of them say is taken"
            found.note(Remark(place, "files.several", said, left_out=False))
        if not regions:
            found.unmarked += not any(image.drawn for _, image in given)
            return
        row = self._row(uri, first, place, regions)
        if row is not None:
            self._target.add(row)
            found.items += 1
            found.regions += len(row["regions"])

    def _regions(self, given: list[Given], header: Header, several: bool) -> tuple[list[_Placed], int]:
        """What can be refined of what was drawn, and how much more there is than an image may have."""
        regions: list[_Placed] = []
        taken: dict[str, int] = {}
        too_many = 0
        for file, image in given:
            turned = self._turned(image, header)
            for drawn in image.drawn:
                if len(regions) == MAX_REGIONS:
                    too_many += 1
                    continue
                place = full_place(file, drawn.place)
                try:
                    if isinstance(turned, ItemError):
                        raise turned
                    if image.shares and isinstance(drawn.shape, Rectangle | Outline):
                        frame = header.size if turned == 1 else header.stored
                        drawn = replace(drawn, shape=scaled(drawn.shape, *frame))
                    regions += [(place, one) for one in self._region(drawn, place, header, turned, taken, several)]
                except ItemError as e:
                    self._found.note(Remark.of(place, e))
        return regions, too_many

    def _row(self, uri: str, image: DrawnImage, place: str, placed: list[_Placed]) -> dict[str, Any] | None:
        """The row, by the manifest's own rules: a region that breaks one is left out, or else the row is."""
        relative = self._root.relative(uri)
        row: dict[str, Any] = {
            "item_id": _unique(image.kept.item_id or relative, "", self._ids),
            "image": self._target.spelled(uri),
            "output": image.kept.output or relative,
            "category": image.kept.category or None,
            "regions": [region for _, region in placed],
        }
        parsed = self._parsed(row)
        if isinstance(parsed, RowProblem):
            without = self._parsed({**row, "regions": [_PLAIN_REGION]})
            if isinstance(without, RowProblem):
                self._found.note(Remark(place, without.reason, without.message))
                return None
            row["regions"] = [region for where, region in placed if self._stands(row, where, region)]
            parsed = self._parsed(row)
        if isinstance(parsed, RowProblem):
            return None
        for region, checked in zip(row["regions"], parsed.regions, strict=True):
            region |= {"seed": checked.seed, "paste": checked.paste}  # "7" and 7.0 are 7; the rest is ours
        return row

    def _stands(self, row: dict[str, Any], place: str, region: dict[str, Any]) -> bool:
        """Whether a region is one by the manifest's rules; if not, it is said."""
        alone = self._parsed({**row, "regions": [region]})
        if isinstance(alone, RowProblem):
            self._found.note(Remark(place, alone.reason, alone.message))
        return not isinstance(alone, RowProblem)

    def _parsed(self, row: dict[str, Any]) -> Item | RowProblem:
        return parse_row(self._found.items, row, storage.folder_of(self._target.uri), self._settings.access)

    def _turned(self, image: DrawnImage, header: Header) -> int | ItemError:
        """The EXIF orientation that is still to be applied to what was drawn: 1, or the file's."""
        try:
            shape = image.drawn[0].shape if image.drawn else None
            if isinstance(shape, MaskFile) and header.size != header.stored and self._settings.orientation == "auto":
                size = read_header(shape.uri, self._settings.limits).size
                return header.orientation if size == header.stored else 1  # a mask's own size is as it is
            return orientation_left(image, header, self._settings.orientation, self._form.upright)
        except ItemError as e:
            return e

    def _region(
        self, drawn: Drawn, place: str, header: Header, orientation: int, taken: dict[str, int], several: bool
    ) -> list[dict[str, Any]]:
        """One region, or none where its label is to be skipped."""
        rule = self._settings.labels.get(drawn.label, LabelRule())
        if rule.skip:
            self._found.note(Remark(place, "label.skipped", f"{drawn.label!r} is set to skip", left_out=False))
            return []
        region: dict[str, Any] = dict(self._marked(drawn.shape, place, header, orientation))
        region["region_id"] = _unique(
            drawn.kept.region_id or drawn.label or _NO_LABEL, drawn.annotator * several, taken
        )
        template = rule.prompt or self._settings.prompt
        region["prompt"] = drawn.kept.prompt or template.replace("{label}", drawn.label or _NO_LABEL)
        seed, paste = drawn.kept.seed if rule.seed is None else rule.seed, rule.paste or drawn.kept.paste
        region |= {k: v for k, v in (("seed", seed), ("paste", paste)) if v is not None}
        references = [self._reference(r, place) for r in drawn.kept.references]
        usable = [r for r in ([rule.reference] if rule.reference else references) if r]
        if usable:
            region["reference"] = usable[0]
        if usable[1:]:
            region["references"] = usable[1:]
        return [region]

    def _reference(self, named: str, place: str) -> str | None:
        """A reference that a file names, below the folder of references; else none, and it is said."""
        try:
            if self._references is None:
                raise ItemError("reference.unused", f"reference {named[:200]!r} is not taken; --references says whence")
            return self._references.find(named)[0]
        except ItemError as e:
            self._found.note(Remark(place, e.reason, str(e), left_out=False))
            return None

    def _marked(self, shape: Shape, place: str, header: Header, orientation: int) -> dict[str, Any]:
        """The field `box` or `mask` of a region."""
        if isinstance(shape, MaskFile):
            return self._mask_file(shape, header, orientation)
        if isinstance(shape, Painted):
            frame = header.stored if orientation != 1 else header.size
            mask, clipped = in_frame(shape, frame, self._settings.limits.max_pixels)
            self._count_clipped(clipped)
            return self._pixels(upright(mask, orientation))
        if isinstance(shape, Outline) and not shape.holes and overlap(shape, header.stored):
            said = "rings overlap and both are marked; --rings holes reads the inner ones as holes"
            self._found.note(Remark(place, "outline.overlap", said, left_out=False))
        shape = simplest(upright_shape(shape, orientation, header.stored))
        if isinstance(shape, Rectangle) or self._settings.shape == "box":
            return {"box": self._clipped(Rectangle(*bounds(shape)), header.size)}
        x0, y0, x1, y1 = bounds(shape)
        self._count_clipped(x0 < 0 or y0 < 0 or x1 > header.size[0] or y1 > header.size[1])
        return self._pixels(filled(shape, header.size))

    def _clipped(self, box: Rectangle, size: tuple[int, int]) -> list[int]:
        x0, y0, x1, y1 = box.pixels()
        if x0 >= x1 or y0 >= y1:
            raise ItemError("box.empty", f"a box of {box.x1 - box.x0:g} x {box.y1 - box.y0:g} px holds no pixel")
        inside = max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1])
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise ItemError(
                "box.outside", f"the box {[x0, y0, x1, y1]} lies outside the image of {size[0]} x {size[1]} px"
            )
        self._count_clipped(inside != (x0, y0, x1, y1))
        return list(inside)

    def _count_clipped(self, clipped: bool) -> None:
        self._found.clipped += clipped

    def _pixels(self, mask: Mask) -> dict[str, Any]:
        if not mask.any():
            raise ItemError("mask.empty", "no pixel of the image is marked")
        if self._settings.shape == "box":
            return {"box": list(tight_box(mask))}
        done, data = cv2.imencode(".png", np.ascontiguousarray(mask).view(np.uint8) * np.uint8(255))
        if not done:
            raise JobError("OpenCV could not write a PNG; its installation is incomplete")
        return {"mask": self._target.add_mask(data.tobytes())}

    def _mask_file(self, shape: MaskFile, header: Header, orientation: int) -> dict[str, Any]:
        """The file as it is, if it has the upright image's size; else what it marks, turned."""
        storage.check_access(shape.uri, self._settings.access)
        size = read_header(shape.uri, self._settings.limits).size
        frame = header.size if orientation == 1 else header.stored
        if size != frame:
            raise ItemError(
                "mask.size",
                f"{shape.uri}: the mask is {size[0]} x {size[1]}, the image {frame[0]} x {frame[1]} px",
            )
        if orientation == 1 and self._settings.shape != "box":
            return {"mask": self._target.spelled(shape.uri)}
        limits = self._settings.limits
        mask = decode_mask(storage.read(shape.uri, limits.max_bytes), name=shape.uri, size=size, limits=limits)
        return self._pixels(upright(mask, orientation))


def full_place(file: str, place: str) -> str:
    return f"{file}: {place}" if place else file


def _unique(name: str, who: str, taken: dict[str, int]) -> str:
    """A region id that no other has; `taken` counts how often each was wanted."""
    plain = f"{who}/{name}" if who else name
    found = plain
    while found in taken:
        taken[plain] += 1
        found = f"{plain}-{taken[plain]}"
    taken.setdefault(found, 1)
    return found
