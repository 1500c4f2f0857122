"""The synthetic source as a maker: rendered marks, with fonts and photos of either split's own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from refine_ops.data.config import SyntheticSource
from refine_ops.data.plan import PlannedSample, split_groups
from refine_ops.data.stages.attempt import SampleAttempt
from refine_ops.data.stages.masks import dilated
from refine_ops.data.stages.sample import Sample
from refine_ops.data.stages.validate import band_filter
from refine_ops.data.synthetic.assets import Library, library, sha256
from refine_ops.data.synthetic.marks import MARKS
from refine_ops.data.synthetic.render import PHOTO, Recipe, SyntheticSample, render
from refine_ops.errors import ItemError, JobError
from refine_ops.image.region import tight_box
from refine_ops.records import Mask
from refine_ops.vlm.questions import Usage

FAMILIES: Final = (PHOTO, *MARKS)
"""What can be drawn, by the names that `exclude` takes."""
ASSET_VALIDATION_SHARE: Final = 0.2
"""Of the fonts and of the photos, each: set apart for the validation split, whatever the share of samples."""
_BUNDLED: Final = "bundled asset, see LICENSES.md"


def split_library(whole: Library, seed: int) -> dict[str, Library]:
    """Two libraries without a file in common; a kind of which there is one file trains."""

    def share(paths: tuple[Path, ...], split: str) -> tuple[Path, ...]:
        splits = split_groups([(sha256(p),) for p in paths], seed, ASSET_VALIDATION_SHARE)
        return tuple(p for p in paths if splits[sha256(p)] == split)

    return {
        split: Library(share(whole.fonts, split), share(whole.icon_fonts, split), share(whole.photos, split))
        for split in ("train", "validation")
    }


def asset_hashes(source: SyntheticSource) -> list[str]:
    """SHA-256 of every file the source may draw from: part of the set's fingerprint."""
    whole = _library(source)
    return sorted(sha256(p) for p in (*whole.fonts, *whole.icon_fonts, *whole.photos))


class DrawnMaker:
    """Implements `Maker` for the synthetic source."""

    usage = Usage()

    def __init__(self, source: SyntheticSource, seed: int, exclude: Iterable[str]) -> None:
        """Raises JobError where a split has no font left, or everything is excluded."""
        self._source = source
        self._libraries = split_library(_library(source), seed)
        self._bundled = {sha256(p) for files in _files(library("train")) for p in files}
        self._recipes = {s: _recipe(source, seed, frozenset(exclude), lib) for s, lib in self._libraries.items()}

    def make(self, planned: PlannedSample, attempt: SampleAttempt) -> Sample:
        with attempt.enter("render"):
            drawn = self._render(planned)
        attempt.images.update(target=drawn.target, mask=drawn.mask, input=drawn.input)
        with attempt.enter("validate"):
            scores = band_filter(drawn.input, drawn.target, drawn.mask, self._source.validation)
        marked = _closed(drawn.object_mask)
        return Sample(
            setting="free" if drawn.reference is None else "reference",
            input=drawn.input,
            target=drawn.target,
            mask=drawn.mask,
            object_mask=marked,
            allowed=_allowed(marked, drawn.mask_kind),
            support=drawn.support,
            object_box=tight_box(marked),
            reference=drawn.reference,
            prompt=drawn.prompt,
            description=drawn.family,
            mask_kind=drawn.mask_kind,
            families=tuple(dict.fromkeys(drawn.families)),
            source_sha256=tuple(dict.fromkeys(digest for _, digest in drawn.sources)),
            licences=tuple(sorted({_BUNDLED if d in self._bundled else "unknown" for _, d in drawn.sources})),
            degradations=tuple({"degradation": name, "strength": power} for name, power in drawn.damages),
            scores=scores if drawn.pose is None else scores | {"pose": round(drawn.pose, 4)},
            models={"render": "synthetic", "degrade": f"model-free (opencv {cv2.__version__})"},
        )

    def _render(self, planned: PlannedSample) -> SyntheticSample:
        try:
            return render(planned.index, self._recipes[planned.split], self._libraries[planned.split])
        except JobError as e:  # no try placed a mark: this index's bad luck, the checks on the recipe come before
            raise ItemError("mark.unplaceable", str(e)) from e


def _library(source: SyntheticSource) -> Library:
    return library("train", tuple(Path(folder) for folder in source.assets))


def _files(lib: Library) -> tuple[tuple[Path, ...], ...]:
    return lib.fonts, lib.icon_fonts, lib.photos


def _recipe(source: SyntheticSource, seed: int, exclude: frozenset[str], lib: Library) -> Recipe:
    if not lib.fonts:
        raise JobError("synthetic source: one of the splits has no font; add fonts with 'assets'")
    exclude |= {"icon"} if not lib.icon_fonts else set()
    exclude |= {PHOTO} if not lib.photos else set()
    if exclude >= set(FAMILIES):
        raise JobError(f"exclude: nothing to draw is left of {', '.join(FAMILIES)}")
    return Recipe(
        seed=seed,
        size=(source.size_px, source.size_px),
        reference_share=source.reference_share,
        pose=source.pose,
        exclude=exclude,
        strength=(source.least_strength, 1.0),
        photo_share=Recipe().photo_share if lib.photos else 0.0,
    )


def _closed(shape: Mask) -> Mask:
    """The mark as one thing, the gaps between its letters filled: what the renderer draws its masks on."""
    closed = cv2.morphologyEx(shape.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8))
    return np.asarray(closed).astype(bool)


def _allowed(marked: Mask, kind: str) -> Mask:
    """The dilated mark; a rendered box is the mark's whole tight box, as a user would draw it."""
    allowed = dilated(marked)
    if kind == "box":
        x0, y0, x1, y1 = tight_box(marked)
        allowed[y0:y1, x0:x1] = True
    return allowed
