"""A refined picture, and all that is known of it."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from refine_ops import storage
from refine_ops.config import RefineSettings
from refine_ops.errors import JobError
from refine_ops.image import focus
from refine_ops.image.formats.native import EDITED, SUFFIXES, Format
from refine_ops.judge.judge import why_held
from refine_ops.records import Agreement, Conditioning, Mask, RegionOutcome, U8Image, Verification
from refine_ops.report.page.contact_sheet import SheetItem, contact_sheet

_FORMAT_OF: Final = {".png": "png", ".webp": "webp-lossless"}
_SUFFIXES_OF: Final[dict[Format, tuple[str, ...]]] = {kind: SUFFIXES[kind] for kind in EDITED}


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """A refined picture and all that is known of it.

    `data` are the bytes to publish, in `format`; `proof` says that nothing outside the allowed change differs in them;
    `regions` holds each region's crop, seed, drift and change, `masks` what was understood as marked, `bool (H, W)`.
    `before` and `after` are the upright pictures in sRGB, `uint8 (H, W, 3)`. `given` is what the model was given, one
    region after the other (of several tiles the first): where references are registered, `reference` is the one that
    agreed best, warped into the crop, and `agreement` says how well it does. `names` are the files that were read.

    A region that was `held` is in `data` as it is in the source; `candidate` is the picture with it. Where all were,
    `data` is the source itself, and there is no proof to need.
    """

    data: bytes
    format: Format
    proof: Verification | None
    regions: tuple[RegionOutcome, ...]
    masks: tuple[Mask, ...]
    before: U8Image
    after: U8Image
    given: tuple[Conditioning, ...]
    names: tuple[str, ...]
    candidate: U8Image | None = None

    @property
    def held(self) -> dict[str, str]:
        """The regions that were not accepted, and why."""
        return {r.region_id: why_held(r) for r in self.regions if not r.accepted}

    @property
    def all_held(self) -> bool:
        return len(self.held) == len(self.regions)

    @property
    def changed(self) -> Mask:
        """The pixels that differ, `bool (H, W)`."""
        return np.asarray((self.before != self.after).any(axis=2))

    @property
    def image(self) -> Image.Image:
        """The refined picture, upright in sRGB."""
        return Image.fromarray(self.after)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How a file of this format may be named, the usual one first."""
        return _SUFFIXES_OF[self.format]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may disappoint: regions that were held, or that the model saw much smaller than they are, references it
        was not given."""
        said = [] if self.all_held else [f"region {name} is held: {why}" for name, why in self.held.items()]
        for region in (one for one in self.regions if one.tiles == 1):
            coarse = focus.coarse(focus.zoom_of(region.crop, (region.model_width, region.model_height)))
            said += [f"region {region.region_id} is {coarse}"] if coarse else []
        said += [
            f"region {region.region_id}: the reference was not used, {_found(region.agreement)}"
            for region, given in zip(self.regions, self.given, strict=True)
            if region.agreement is not None and given.reference is None
        ]
        return tuple(said)

    def __str__(self) -> str:
        """What was marked, where the model looked, which reference fitted and what changed, in one line."""
        marked = np.count_nonzero(np.logical_or.reduce(self.masks))
        said = [f"{marked:,} px marked ({marked / self.masks[0].size:.1%})"]
        if self.proof is None:
            said.append(self.why)
        else:
            said.append(f"{self.proof.changed_px:,} px changed")
            said.append(f"{self.proof.changed_outside_px} outside the allowed change")
        if len(self.regions) == 1:
            [region] = self.regions
            seen = f"crop {','.join(map(str, region.crop))} seen at {region.model_width} x {region.model_height}"
            said.append(seen + (f" in {region.tiles} tiles" if region.tiles > 1 else ""))
            if region.agreement is not None and self.given[0].reference is not None:
                said.append(f"reference {PurePosixPath(region.agreement.reference).name} {_found(region.agreement)}")
            said.append(f"seed {region.seed}")
        return ", ".join(said)

    @property
    def why(self) -> str:
        """Why nothing was accepted."""
        return f"held: {'; '.join(dict.fromkeys(self.held.values()))}"

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write `data` and return where it lies.

        Raises:
            JobError: everything was held, so that there is nothing but the source to write; `path` is one of the files
                that were read, names another format, or cannot be written.
        """
        if self.all_held:
            raise JobError(
                f"{self.why}. There is nothing to write but the source itself. Other seeds, another reference or model "
                "may do better; publish 'all' writes it as it is"
            )
        return _write(os.fspath(path), self.data, self.names, self.format)

    def save_comparison(self, path: str | os.PathLike[str]) -> str:
        """Write the picture with its regions marked, and each region before and after, as PNG."""
        return _write(os.fspath(path), self._comparison(), self.names, "png")

    def show(self) -> None:
        """Open the comparison in the desktop's viewer."""
        Image.open(io.BytesIO(self._comparison())).show(title="before and after")

    def _comparison(self) -> bytes:
        name, held = PurePosixPath(self.names[0]).name, self.held
        masks = dict(zip((r.region_id for r in self.regions), self.masks, strict=True))
        shown = [i for i in masks.items() if i[0] not in held or self.candidate is None]
        items = [SheetItem.of(name, self.before, self.after, shown)] if shown else []
        if self.candidate is not None:
            kept = [i for i in masks.items() if i[0] in held]
            items.append(SheetItem.of(f"{name}, held, not written", self.before, self.candidate, kept))
        return contact_sheet(items)


def _found(agreement: Agreement) -> str:
    """The verdict on a reference in words, with its figures."""
    why = f": {agreement.reason}" if agreement.verdict != "fits" else ""
    ahead = f", {agreement.lead:.2f} ahead of the next" if agreement.lead > 0 else ""
    return f"{agreement.verdict} (agreement {agreement.rank:.2f}{ahead}){why}"


def output_format(out: str, settings: RefineSettings) -> RefineSettings:
    """The settings under which a picture is written as `out` says by its suffix: `.png` and `.webp` convert."""
    wanted = _FORMAT_OF.get(PurePosixPath(out).suffix.lower())
    if wanted is None or settings.write.output_format != "source":
        return settings
    return settings.model_copy(update={"write": settings.write.model_copy(update={"output_format": wanted})})


def check_target(target: str, sources: Sequence[str]) -> None:
    """Before any work: whether a result may be written there.

    Raises:
        JobError: `target` is one of the `sources`, or its suffix says what the first of them cannot become.
    """
    uri = storage.resolve(target, os.getcwd())
    known = [suffix for suffixes in _SUFFIXES_OF.values() for suffix in suffixes]
    if _kind_by_name(uri) is None:
        raise JobError(f"{uri}: expected a name ending in one of {', '.join(known)}; .png and .webp convert")
    kind, own = _kind_by_name(uri), _kind_by_name(sources[0])
    if own not in (None, kind) and kind in ("jpeg", "tiff"):
        raise JobError(f"{uri}: the picture is {own}, name it *{_SUFFIXES_OF[own][0]}; .png and .webp convert it")
    for source in (storage.resolve(source, os.getcwd()) for source in sources):
        if uri == source or _same_file(uri, source):
            raise JobError(f"{uri} is the source; sources are never overwritten, give another name")


def _write(path: str, data: bytes, sources: Sequence[str], kind: Format) -> str:
    uri = storage.resolve(path, os.getcwd())
    check_target(uri, [source for source in sources if os.path.isabs(source) or storage.is_s3(source)])
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in _SUFFIXES_OF[kind]:
        raise JobError(f"{uri}: the picture is {kind}, name it *{_SUFFIXES_OF[kind][0]}; .png and .webp convert it")
    storage.write(uri, data)
    return uri


def _kind_by_name(uri: str) -> Format | None:
    suffix = PurePosixPath(uri).suffix.lower()
    return next((kind for kind, suffixes in _SUFFIXES_OF.items() if suffix in suffixes), None)


def _same_file(uri: str, source: str) -> bool:
    local = not (storage.is_s3(uri) or storage.is_s3(source))
    return local and os.path.exists(uri) and os.path.exists(source) and os.path.samefile(uri, source)
