"""`refine`: one picture, refined in this process.

from refine_ops import refine
result = refine("photo.jpg", box=(310, 220, 520, 300), reference="logo.png")
result.save("refined.jpg")
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from refine_ops.chain import Judged, Refinement, finish
from refine_ops.config import AccessSettings, ModelSettings, RefineSettings
from refine_ops.errors import JobError
from refine_ops.image.read import decode_rgb
from refine_ops.image.source import Source
from refine_ops.job.inputs import input_uris
from refine_ops.judge.judge import open_judge
from refine_ops.model.presets import TRANSFER
from refine_ops.opened import open_item
from refine_ops.records import Conditioning, Item, Mask, Refiner, U8Image
from refine_ops.single.given import Picture, References, given_item
from refine_ops.single.result import Refined


def refine(
    image: Picture,
    *,
    box: Sequence[float] | str | None = None,
    mask: Picture | None = None,
    scribble: Mapping[str, Any] | str | None = None,
    prompt: str | None = None,
    reference: References | None = None,
    seed: int | None = None,
    regions: Sequence[Mapping[str, Any]] | None = None,
    model: str | None = None,
    publish: Literal["gated", "all"] | None = None,
    settings: RefineSettings | None = None,
    access: AccessSettings | None = None,
    mask_level: int | None = None,
    mask_class: int | None = None,
    mask_invert: bool | None = None,
) -> Refined:
    """Refine one marked region of one picture, or several `regions` given as in a manifest.

    Args:
        box: `x0, y0, x1, y1`, half-open, in pixels of the upright picture; or give `mask`, or `scribble`
            (`{"strokes": [[[x, y], ...], ...], "width": px}`).
        reference: A picture that shows how the region should look, several of them, or a folder of pictures: 16 at
            most, of which the one that agrees best is taken (a model that takes them as given sees the first).
        seed: Default is derived from the picture's name.
        publish: `gated`: a region that is not better with certainty keeps the source's own pixels, and the result says
            so; `all`: whatever comes; short for `settings.publish`.
        model: Preset, folder in diffusers' layout, or hub name; short for `settings.model.model`.
        mask_level: Where the mask alone does not say what it marks: from this value on (or see `mask_class`, the marked
            class of a label image, and `mask_invert`).

    Raises:
        ItemError: the picture cannot be refined; the message names the file and the remedy.
        JobError: the model or the settings do not allow it.
    """
    settings = settings or RefineSettings()
    if model is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"model": model})})
    if publish is not None:
        settings = settings.model_copy(update={"publish": publish})
    given: dict[str, Any] = {"box": box, "mask": mask, "scribble": scribble, "prompt": prompt, "reference": reference}
    given |= {"seed": seed, "mask_level": mask_level, "mask_class": mask_class, "mask_invert": mask_invert}
    named = {name: value for name, value in given.items() if value is not None}
    if regions is not None and named:
        raise JobError(f"{', '.join(named)} beside `regions`; give them inside of it")
    item, inputs = given_item(
        image, [named] if regions is None else regions, settings.limits.max_bytes, access or AccessSettings()
    )
    opened = open_item(item, inputs, settings)
    refiner, given_to_model = _refiner(settings.model), dict[str, Conditioning]()
    refinement = Refinement(item, opened, settings, refiner, open_judge(settings))
    while not refinement.complete:
        shown = refinement.conditioning()
        given_to_model.setdefault(refinement.turn[0], shown)
        refinement.absorb(refiner.refine_prepared([refiner.prepare(shown)])[0])
    masks = [m.mask.unpacked() for m in opened.markings]
    return _result(item, finish(refinement), opened.source, masks, [*given_to_model.values()], settings)


def _result(
    item: Item, judged: Judged, source: Source, masks: list[Mask], given: list[Conditioning], settings: RefineSettings
) -> Refined:
    written, kept = judged.published, judged.candidate

    def seen(data: bytes) -> U8Image:
        return decode_rgb(data, name=item.image, limits=settings.limits)

    return Refined(
        data=written.data if written else source.data,
        format=written.format if written else source.format,
        proof=written.verification if written else None,
        regions=judged.regions,
        masks=tuple(masks),
        before=source.rgb,
        after=seen(written.data) if written else source.rgb,
        given=tuple(given),
        names=tuple(input_uris(item)),
        candidate=seen(kept.data) if kept else None,
    )


@lru_cache(maxsize=1)
def _refiner(settings: ModelSettings) -> Refiner:
    """The loaded model; the last one is kept, so that the next picture does not wait for it."""
    from refine_ops.model.open import open_refiner

    if settings.model == TRANSFER:
        return open_refiner(settings)
    import torch

    on_gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    return open_refiner(settings, torch.device("cuda" if on_gpu else "cpu"))
