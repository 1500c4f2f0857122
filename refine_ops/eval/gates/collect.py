"""Judged results of a model on a case set: what it made, its evidence, and whether it was worse; case by case on disk.

OUT/judged/<digest>/<case_id>.json holds what is known of a case; a second start goes on where the first ended.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import torch

from refine_ops import PIXEL_VERSION, storage
from refine_ops.chain import Refinement, finish_shown
from refine_ops.config import RefineSettings
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, LoadedInput, load_input
from refine_ops.eval.gates.planted import HARMS, pasted, plant
from refine_ops.eval.methods.method import digest_of
from refine_ops.eval.methods.refiner import OurRefiner, as_item
from refine_ops.eval.metrics.metric import to_tensor
from refine_ops.eval.metrics.perceptual import MIN_SIDE_PX, lpips_network
from refine_ops.eval.metrics.trunks import MissingWeights
from refine_ops.image import place
from refine_ops.image.difference import psnr
from refine_ops.image.focus import crop_of
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode
from refine_ops.judge.calibrate import JudgedResult
from refine_ops.judge.evidence.measure import measure, region_reference
from refine_ops.model.open import open_refiner
from refine_ops.opened import open_item
from refine_ops.progress import OnProgress, no_progress
from refine_ops.records import Alignment, Conditioning, Evidence, Mask, U8Image

logger = logging.getLogger(__name__)

MOST_LPIPS: Final = 0.01
MOST_DB: Final = 0.3
"""Worse is: LPIPS (AlexNet) over the region's crop up by more than the first, or PSNR over the mask down by more than
the second."""
RESTORED: Final = "truth pasted"
_DRAWN_BEFORE: Final = 0.75
"""Share of planted results that harm what was there; the others harm what should be there."""


@dataclass(frozen=True, slots=True)
class MeasuredResult:
    """One result: `kind` is empty for what the model made, else what was planted; gains are after minus before."""

    case: str
    input_id: str
    setting: str
    degrader: str
    kind: str
    evidence: Evidence
    gain_db: float
    lpips: float | None

    @property
    def worse(self) -> bool:
        return self.gain_db < -MOST_DB or (self.lpips is not None and self.lpips > MOST_LPIPS)

    @property
    def result(self) -> JudgedResult:
        return JudgedResult(self.case, self.evidence, self.worse)


class Distance(Protocol):
    """LPIPS of two pictures; None where it cannot be taken."""

    def __call__(self, one: U8Image, other: U8Image) -> float | None: ...


def open_distance(weights: str | None, allow_hub: bool) -> Distance | None:
    """LPIPS (AlexNet) on the CPU; None, and said so, where its weights are absent."""
    try:
        network: Any = lpips_network("alexnet", weights, allow_hub, torch.device("cpu"))
    except MissingWeights as e:
        logger.warning("LPIPS is not measured (%s): PSNR alone says what is worse", e)
        return None

    @torch.inference_mode()
    def distance(one: U8Image, other: U8Image) -> float | None:
        if min(one.shape[:2]) < MIN_SIDE_PX:
            return None
        tensors = [to_tensor(image[None], torch.device("cpu")) for image in (one, other)]
        return float(network(*tensors, normalize=True).item())

    return distance


def collect(
    cases: CaseSet,
    inputs: Sequence[EvalInput],
    settings: RefineSettings,
    device: torch.device,
    distance: Distance | None,
    out: str,
    *,
    lessons: int = 0,
    on_progress: OnProgress = no_progress,
) -> list[MeasuredResult]:
    """The model's results on `inputs`, and `lessons` kinds of planted ones on each beside the truth itself."""
    # Left as it is a region is a result, as in any evaluation.
    settings = settings.model_copy(update={"write": settings.write.model_copy(update={"allow_unchanged": True})})
    method = OurRefiner(settings, device)
    known = {
        "method": method.digest,
        "pixels": PIXEL_VERSION,
        "evidence": sorted(asdict(Evidence())),
        "lpips": distance is not None,
        "lessons": lessons,
    }
    folder = storage.join(out, "judged", digest_of(known))
    by_case: dict[str, list[EvalInput]] = {}
    for item in inputs:
        by_case.setdefault(item.case_id, []).append(item)
    refiner = None
    found: list[MeasuredResult] = []
    for done, (case, items) in enumerate(by_case.items(), 1):
        uri = storage.join(folder, f"{case}.{digest_of({'inputs': [i.digest for i in items]})[:8]}.json")
        if storage.exists(uri):
            found += [_read(row) for row in json.loads(storage.read(uri))]
            continue
        refiner = refiner or open_refiner(settings.model, device)
        rows = []
        others = inputs[(done * 7) % len(inputs)], inputs[(done * 7 + len(inputs) // 2) % len(inputs)]
        for item in items:
            other = next((o for o in others if o.case_id != case), None)
            wrong = None if other is None else load_input(cases, other, settings.limits).target
            loaded = load_input(cases, item, settings.limits)
            rows += list(_judged(loaded, settings, refiner, distance, lessons, wrong))
        storage.write(uri, json.dumps([asdict(row) for row in rows]).encode())
        found += rows
        on_progress(done, len(by_case))
    return found


def _judged(
    loaded: LoadedInput,
    settings: RefineSettings,
    refiner: Any,
    distance: Distance | None,
    lessons: int,
    wrong: U8Image | None,
) -> Iterator[MeasuredResult]:
    made = _made(loaded, settings, refiner)
    if made is None:
        return
    yield _result(made, "", made.after, distance)
    if not lessons:
        return
    rng = np.random.default_rng(int(loaded.item.digest[:12], 16))
    restored = pasted(made.before, made.target, made.mask)
    yield _result(made, RESTORED, restored, distance)
    for kind in rng.choice(sorted(HARMS), lessons, replace=False).tolist():
        if kind == "wrong reference pasted" and wrong is None:
            continue
        start = made.before if rng.random() < _DRAWN_BEFORE else restored
        harmed = plant(kind, start, made.mask, made.target if wrong is None else wrong, rng)
        planted = _result(made, kind, harmed, distance)
        if planted.worse:
            yield planted


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A region's crop at native resolution: before, after, as it should be; the mask; what evidence needs."""

    item: EvalInput
    before: U8Image
    after: U8Image
    target: U8Image
    mask: Mask
    reach_px: int
    zoom: float
    reference: U8Image | None
    covered: Mask | None
    alignment: Alignment

    def evidence(self, after: U8Image) -> Evidence:
        return measure(
            self.before,
            after,
            self.mask,
            reach_px=self.reach_px,
            zoom=self.zoom,
            reference=self.reference,
            covered=self.covered,
            alignment=self.alignment,
        )


def _made(loaded: LoadedInput, settings: RefineSettings, refiner: Any) -> _Made | None:
    """One input through the chain; None where the model refuses it."""
    # As PNG, so that what is judged are the pixels that were pasted, as in a run.
    item, files = as_item(replace(loaded, data=encode_png(loaded.image)))
    try:
        opened = open_item(item, files, settings)
        refinement = Refinement(item, opened, settings, refiner)
        given: list[Conditioning] = []
        while not refinement.complete:
            given.append(refinement.conditioning())
            refinement.absorb(refiner.refine_prepared([refiner.prepare(given[-1])])[0])
        finished = finish_shown(refinement)
    except ItemError as e:
        logger.info("%s is left out: %s", loaded.item.input_id, e)
        return None
    found = place.find(
        opened.markings[0],
        settings.focus,
        settings.paste,
        grid_px=refiner.grid_px,
        focus_pixels=refiner.focus_pixels,
        tile_zoom=settings.focus.least_zoom(refiner.tile_zoom),
    )
    after = decode(finished.data, name=item.image, limits=settings.limits).rgb
    reference, covered = region_reference(given, found) or (None, None)
    pictures = (loaded.image, after, loaded.target)
    before, now, target = (np.ascontiguousarray(crop_of(image, found.crop.crop)) for image in pictures)
    return _Made(
        loaded.item, before, now, target, found.pasted, settings.paste.reach_px, found.zoom, reference,
        covered, finished.regions[0].alignment,
    )  # fmt: skip


def _result(made: _Made, kind: str, after: U8Image, distance: Distance | None) -> MeasuredResult:
    lpips = None
    if distance is not None:
        now, was = distance(after, made.target), distance(made.before, made.target)
        lpips = None if now is None or was is None else now - was
    return MeasuredResult(
        case=made.item.case_id,
        input_id=made.item.input_id,
        setting=made.item.setting,
        degrader=made.item.degrader,
        kind=kind,
        evidence=made.evidence(after),
        gain_db=psnr(after, made.target, made.mask) - psnr(made.before, made.target, made.mask),
        lpips=lpips,
    )


def _read(row: dict[str, Any]) -> MeasuredResult:
    return MeasuredResult(**row | {"evidence": Evidence(**row["evidence"])})
