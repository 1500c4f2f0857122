"""From a finished training to the registry: publish, compare with the incumbent on held-out cases, promote or not."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from refine_ops import adapters as registry
from refine_ops import storage
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import CaseSet
from refine_ops.eval.config import FolderMethod, RefineEvalConfig
from refine_ops.eval.results import Results
from refine_ops.eval.run import evaluate, open_cases, open_meters
from refine_ops.model.pretrained import pick_device
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.promotion.decision import Criterion, Decision, Scores, decide
from refine_ops.train.promotion.held_out import HeldOut, chosen_inputs, refine_held_out
from refine_ops.train.run import TrainResult
from refine_ops.train.run_folder import training_settings

logger = logging.getLogger(__name__)

_INCUMBENT: Final = "incumbent"
_CANDIDATE: Final = "candidate"
_BASE_PRESET: Final = ("zero_cond_t", "mask_image", "mask_pixels", "focus_pixels", "vlm_pixels")


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate said of one version; `incumbent` is None where it was compared with the base model alone."""

    version: str
    incumbent: str | None
    decision: Decision
    promoted: bool
    notes: tuple[str, ...]


def publish(config: TrainLoraConfig, result: TrainResult) -> registry.AdapterCard:
    """Store the adapter with its card; publishing the same file again changes nothing."""
    return registry.publish(
        registry_of(config),
        result.adapter.read_bytes(),
        label=config.label,
        base=base_fingerprint(result.fingerprint),
        data=result.data,
        code={name: value for name, value in result.fingerprint.items() if name.startswith("version.")},
        settings=training_settings(config),
        metrics=result.metrics,
    )


def judge(config: TrainLoraConfig, version: str) -> Judged:
    """Compare a version with the current adapter (or, before the first promotion, with the bare base) and promote it
    if the gate says so. Outputs and tables stay under `config.out/eval`.

    Raises:
        JobError: the primary metric cannot be measured, or somebody moved the pointer meanwhile.
    """
    place, gate = registry_of(config), config.gate
    now = registry.current(place)
    incumbent = None if now is None else now.version
    if incumbent == version:
        same = Decision("keep", ())
        return Judged(version, incumbent, same, False, (f"{version} is current already",))
    out = Path(config.out) / "eval"
    settings = RefineEvalConfig(out=str(out), cases=gate.cases, limit=gate.limit, metrics=gate.metrics, methods=())
    cases, higher = open_cases(settings), _higher_is_better(settings, gate.metric)
    before = _held_out(config, cases, settings, incumbent)
    after = _held_out(config, cases, settings, version)
    methods = tuple(
        FolderMethod(name=name, folder=str(made.outputs)) for name, made in ((_INCUMBENT, before), (_CANDIDATE, after))
    )
    results = evaluate(settings.model_copy(update={"methods": methods, "primary": gate.metric})).results
    decision = decide(
        _criteria(config, results, before, after, higher),
        min_cases=gate.min_cases,
        power=gate.power,
        failed=len(after.failures.keys() - before.failures.keys()),
    )
    logger.info("%s against %s: %s", version, incumbent or "the base model", decision.sentence)
    promoted = decision.verdict == "promote"
    if promoted:
        registry.promote(place, version, decision.sentence, expected=None if now is None else now.index)
    return Judged(version, incumbent, decision, promoted, tuple(_notes(place, version, incumbent)))


def registry_of(config: TrainLoraConfig) -> str:
    """The registry's URI.

    Raises:
        JobError: none is set.
    """
    if config.registry is None:
        raise JobError("no adapter registry is set; set `registry` to a folder or an s3:// prefix")
    try:
        return storage.resolve(config.registry)
    except ItemError as error:
        raise JobError(f"registry: {error}") from error


def base_fingerprint(fingerprint: dict[str, str]) -> dict[str, str]:
    """The part of a training's fingerprint that a user of the adapter should share: weights, conditioning, versions."""
    preset = {f"preset.{name}" for name in _BASE_PRESET}
    return {
        name: value
        for name, value in fingerprint.items()
        if name.startswith(("weights.", "lora.", "version.")) or name in preset
    }


def _criteria(
    config: TrainLoraConfig, results: Results, before: HeldOut, after: HeldOut, higher: bool
) -> list[Criterion]:
    gate = config.gate
    scores = [results.values(name, gate.metric) for name in (_INCUMBENT, _CANDIDATE)]
    if not all(scores):
        notes = results.notes(_CANDIDATE, gate.metric) or results.notes(_INCUMBENT, gate.metric)
        raise JobError(
            f"gate.metric {gate.metric!r} was measured on no held-out input: {'; '.join(notes) or 'not asked for'}. "
            "Set gate.metrics.weights, or another gate.metric ('psnr_mask' needs no weights)"
        )
    criteria = [Criterion(gate.metric, scores[0], scores[1], higher, gate.delta)]
    if before.drift and after.drift:
        tone, shift = ([_drift_scores(made, kind) for made in (before, after)] for kind in ("de00", "shift_px"))
        criteria += [
            Criterion("raw tone shift (dE00)", tone[0], tone[1], False, gate.de00_delta),
            Criterion("raw displacement (px)", shift[0], shift[1], False, gate.shift_delta),
        ]
    return criteria


def _drift_scores(made: HeldOut, kind: str) -> Scores:
    return {name: (drift.case_id, getattr(drift, kind)) for name, drift in made.drift.items()}


def _held_out(config: TrainLoraConfig, cases: CaseSet, settings: RefineEvalConfig, version: str | None) -> HeldOut:
    """What the base with this version, or alone, makes of the cases."""
    adapters = config.model.adapters
    if version is not None:
        adapters = (*adapters, str(registry.resolve(version, registry_of(config)).file))
    model: ModelSettings = config.model.model_copy(update={"adapters": adapters, "registry": None})
    refine: RefineSettings = config.gate.refine.model_copy(update={"model": model})
    folder = Path(config.out) / "eval" / "heldout"
    return refine_held_out(
        cases, chosen_inputs(cases, config.gate.limit), refine, pick_device(wanted=settings.metrics.device), folder
    )


def _higher_is_better(settings: RefineEvalConfig, name: str) -> bool:
    metrics = {
        metric.name: metric
        for meter in open_meters(settings, pick_device(wanted=settings.metrics.device))
        for metric in meter.metrics
    }
    if name not in metrics:
        raise JobError(f"gate.metric {name!r} is no metric of refine-eval; it has {', '.join(sorted(metrics))}")
    return metrics[name].better == "higher"


def _notes(place: str, version: str, incumbent: str | None) -> list[str]:
    """What differs between the two trainings besides their data, for people."""
    if incumbent is None:
        return ["no adapter was current: compared with the base model alone"]
    old, new = registry.show(place, incumbent), registry.show(place, version)
    return [f"against {incumbent}, {line}" for line in registry.drift(old.base, new.base)]
