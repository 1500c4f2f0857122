"""An item after its last region: encoded, proven on those very bytes, and marked or signed where that is asked for."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from refine_ops.chain.refinement import Refinement, Timed
from refine_ops.config import RefineSettings
from refine_ops.image import write
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.formats.native import Format
from refine_ops.judge.judge import Judge
from refine_ops.opened import Opened, open_item
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules
from refine_ops.provenance import policy
from refine_ops.records import Item, Refiner, RegionOutcome, Verification


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """An item ready to publish: bytes, proof, and what was done. `change_mask` is a PNG, if asked for."""

    data: bytes
    format: Format
    source_format: Format
    width: int
    height: int
    regions: tuple[RegionOutcome, ...]
    verification: Verification
    change_mask: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An item after its judge. `published` holds what was accepted, None where that is nothing; `candidate` holds
    everything, where a region was held and its pixels differ from the source's."""

    published: Finished | None
    candidate: Finished | None
    regions: tuple[RegionOutcome, ...]


def finish(refinement: Refinement, timed: Timed = nullcontext) -> Judged:
    """Encode and verify what was accepted, and where something was held, a file with all of it.

    Raises:
        ItemError: a promise is broken; the bytes must not be published.
    """
    published = candidate = None
    if any(region.accepted for region in refinement.regions):
        published = finish_shown(refinement, timed)
    if refinement.show_held():
        shown = finish_shown(refinement, timed, allow_unchanged=True)
        candidate = shown if shown.verification.changed_px else None
    return Judged(published, candidate, refinement.regions)


def finish_shown(
    refinement: Refinement, timed: Timed = nullcontext, *, allow_unchanged: bool | None = None
) -> Finished:
    """Encode what is on the canvas, and prove on those very bytes that nothing differs outside the allowed change of
    the regions that are on it.

    Args:
        allow_unchanged: As the settings say if None.

    Raises:
        ItemError: a promise is broken; the bytes must not be published.
    """
    source, settings, samples = refinement.source, refinement.settings, refinement.canvas.samples
    is_marked = policy.is_marked(source, samples, settings.provenance)
    with timed("encode"):
        encoded = _encoded(refinement, is_marked)
    with timed("verify"):
        rules = Rules.of(settings.paste, settings.write)
        prove = partial(
            verify.verify,
            source,
            rules=rules,
            allow_unchanged=settings.write.allow_unchanged if allow_unchanged is None else allow_unchanged,
            marked=is_marked,
        )
        data, proof = encoded.data, prove(encoded.data, refinement.marked())
        if policy.is_signed(source, samples, settings.provenance):
            data = policy.signed(encoded, source, samples, refinement.marked(), rules, settings.model)
            proof = policy.read_again(data, source.name, prove(data, refinement.marked(), signed=True))
        change_mask = write.change_mask(refinement.canvas) if settings.write.save_change_mask else None
    return Finished(
        data=data,
        format=encoded.format,
        source_format=source.format,
        width=source.width,
        height=source.height,
        regions=refinement.regions,
        verification=proof,
        change_mask=change_mask,
    )


def _encoded(refinement: Refinement, is_marked: bool) -> Encoded:
    """The canvas as bytes, in the file's own format unless the settings say otherwise."""
    settings = refinement.settings
    confined = settings.paste.confine == "region"
    encoded = write.encode(refinement.source, refinement.canvas, settings.write, confined=confined)
    return policy.marked(encoded, refinement.source.name) if is_marked else encoded


def refine_image(item: Item, inputs: Mapping[str, bytes], refiner: Refiner, settings: RefineSettings) -> Finished:
    """The whole chain for one image, one region at a time; whatever comes is accepted.

    Raises:
        ItemError: the item cannot be refined; nothing should be published.
    """
    published = refine_opened(item, open_item(item, inputs, settings), refiner, settings).published
    assert published is not None, "nobody judged"
    return published


def refine_opened(
    item: Item, opened: Opened, refiner: Refiner, settings: RefineSettings, judge: Judge | None = None
) -> Judged:
    """The chain for an image whose inputs are decoded."""
    refinement = Refinement(item, opened, settings, refiner, judge)
    while not refinement.complete:
        work = refiner.prepare(refinement.conditioning())
        refinement.absorb(refiner.refine_prepared([work])[0])
    return finish(refinement)
