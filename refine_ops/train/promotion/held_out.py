"""An adapter on held-out cases: its outputs, and the raw drift that the paste-back then undoes.

Raw drift is what the model did to pixels it was not asked to change, measured on the crop before alignment corrects
it. A corrected output hides it, so a retrained adapter could grow worse there for long before anyone sees it.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from refine_ops import storage
from refine_ops.chain import refine_image
from refine_ops.config import RefineSettings, pixel_settings
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, load_input
from refine_ops.eval.methods.refiner import as_item
from refine_ops.image.formats.table import MEDIA_SUFFIX
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.refiner import load_refiner
from refine_ops.model.source import resolve_model
from refine_ops.records import Alignment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drift:
    """Raw drift of one input's crop: median CIEDE2000 and displacement in native px."""

    case_id: str
    de00: float
    shift_px: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What one adapter made of the cases. `drift` lacks inputs where too few known pixels were generated."""

    outputs: Path
    drift: dict[str, Drift]
    failures: dict[str, str]


def refine_held_out(
    cases: CaseSet, inputs: Sequence[EvalInput], settings: RefineSettings, device: torch.device, folder: Path
) -> HeldOut:
    """Refine every input as in production; what `folder` holds of the same adapter, settings and inputs is kept.

    An output equal to its input is a result here, not a failure.
    """
    settings = settings.model_copy(update={"write": settings.write.model_copy(update={"allow_unchanged": True})})
    digest = _digest(inputs, settings)
    place = folder / digest
    record = place / "record.json"
    if not record.exists():
        storage.write(str(record), json.dumps(_refine_all(cases, inputs, settings, device, place)).encode())
    found = json.loads(record.read_text())
    return HeldOut(place, {name: Drift(**values) for name, values in found["drift"].items()}, found["failures"])


def _refine_all(
    cases: CaseSet, inputs: Sequence[EvalInput], settings: RefineSettings, device: torch.device, place: Path
) -> dict[str, Any]:
    refiner = load_refiner(settings.model, device)
    drift: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for number, eval_input in enumerate(inputs, 1):
        name = eval_input.input_id
        try:
            item, files = as_item(load_input(cases, eval_input, settings.limits))
            finished = refine_image(item, files, refiner, settings)
        except ItemError as error:
            failures[name] = f"{error.reason}: {error}"
            continue
        suffix = next(s for kind, s in MEDIA_SUFFIX.items() if kind == finished.format)
        storage.write(str(place / f"{name}{suffix}"), finished.data)
        alignment = finished.regions[0].alignment
        if alignment.measured:
            drift[name] = asdict(_drift(eval_input.case_id, alignment))
        if number % 20 == 0 or number == len(inputs):
            logger.info("held-out inputs refined: %d of %d", number, len(inputs))
    return {"drift": drift, "failures": failures}


def _drift(case_id: str, alignment: Alignment) -> Drift:
    return Drift(case_id, alignment.de00_before, math.hypot(alignment.dx_px, alignment.dy_px))


def _digest(inputs: Sequence[EvalInput], settings: RefineSettings) -> str:
    model = fingerprint_model(resolve_model(settings.model), settings.model)
    described = pixel_settings(settings)
    described["model"].pop("adapters")  # their contents are in the model's fingerprint
    text = json.dumps([model, described, [item.digest for item in inputs]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chosen_inputs(cases: CaseSet, limit: int | None) -> list[EvalInput]:
    """The inputs of the first `limit` cases.

    Raises:
        JobError: the case set is empty.
    """
    groups = list(cases.by_case().values())[:limit]
    if not groups:
        raise JobError(f"{cases.uri}: no cases; build them first (refine-ops eval build)")
    return [item for group in groups for item in group]
