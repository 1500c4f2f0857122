"""Damaged regions of held-out fonts and photos, eight kinds of worse results for each, and the truth itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refine_ops.chain import Refinement
from refine_ops.config import RefineSettings
from refine_ops.data.synthetic import assets
from refine_ops.errors import ItemError
from refine_ops.eval.cases.degraded import FAMILIES, FamilyDegrader, make_versions, select
from refine_ops.eval.cases.rendered import draw_case
from refine_ops.eval.gates.collect import MOST_DB, RESTORED
from refine_ops.eval.gates.planted import HARMS, pasted, plant
from refine_ops.image import place
from refine_ops.image.difference import psnr
from refine_ops.image.focus import crop_of
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode_rgb
from refine_ops.judge.evidence.measure import measure, native_reference
from refine_ops.model import tiny
from refine_ops.model.transfer import TransferRefiner
from refine_ops.opened import open_item
from refine_ops.records import Evidence, Item, Mask, Region, U8Image

BAND = (4.0, 72.0)
"""Of the mean change over the mask, in 1/255, as RefineEval's cases have it."""


@dataclass(frozen=True, eq=False)
class Base:
    """A damaged region's crop at native resolution, and what evidence needs."""

    before: U8Image
    target: U8Image
    mask: Mask
    zoom: float
    reference: U8Image | None
    covered: Mask | None

    def evidence(self, after: U8Image) -> Evidence:
        return measure(
            self.before, after, self.mask, reach_px=8, zoom=self.zoom, reference=self.reference, covered=self.covered
        )


@dataclass(frozen=True)
class Looks:
    """As much of a refiner as is needed to be given a region as `tiny` is."""

    grid_px: int
    focus_pixels: int
    tile_zoom: float
    reference: str = "registered"


def base(number: int) -> Base:
    """Region `number`; the same number gives the same pixels. Every other one has a reference, registered where it
    fits.

    Raises:
        ItemError: no damage of it is within RefineEval's band: neither invisible nor past recognition.
    """
    library = assets.library("heldout")
    row, files = draw_case(number, library, np.random.default_rng((37, number)))
    target = decode_rgb(files[row["image"]], name="", limits=RefineSettings().limits)
    shape = decode_rgb(files[row["object_mask"]], name="", limits=RefineSettings().limits)[..., 0] > 0
    family = sorted(FAMILIES)[number // 2 % len(FAMILIES)]
    versions = make_versions(row["case_id"], target, shape, FamilyDegrader(family), family, (2, 2), number)
    made = select(versions, 1, BAND)[0]
    region = Region("r", row["instruction"], mask="mask", reference="reference" if "reference" in row else None)
    inputs = {"image": encode_png(made.image), "mask": encode_png(made.mask)}
    if region.reference:
        inputs["reference"] = files[row["reference"]]
    settings, item = RefineSettings(), Item("i", "image", "o", (region,), row=0)
    opened = open_item(item, inputs, settings)
    looks = {"grid_px": TransferRefiner.grid_px, "focus_pixels": tiny.VAE_PIXELS, "tile_zoom": 0.0}
    found = place.find(opened.markings[0], settings.focus, settings.paste, **looks)
    given = Refinement(item, opened, settings, Looks(**looks)).conditioning()  # type: ignore[arg-type]
    reference, covered = native_reference(given, found.crop) or (None, None)
    before, truth = (np.ascontiguousarray(crop_of(image, found.crop.crop)) for image in (made.image, target))
    return Base(before, truth, found.pasted, found.zoom, reference, covered)


def planted(numbers: range) -> Iterator[tuple[str, Base, Evidence]]:
    """Kind, region and evidence: of every region the truth and each harm that lowers PSNR over the mask."""
    other = base(numbers[0]).target
    for number in numbers:
        try:
            here = base(number)
        except ItemError:
            continue
        yield RESTORED, here, here.evidence(pasted(here.before, here.target, here.mask))
        for index, kind in enumerate(HARMS):
            after = plant(kind, here.before, here.mask, other, np.random.default_rng((41, number, index)))
            if psnr(after, here.target, here.mask) < psnr(here.before, here.target, here.mask) - MOST_DB:
                yield kind, here, here.evidence(after)
        other = here.target
