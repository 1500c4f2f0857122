"""From a finished training to the registry: publish, compare with the incumbent on held-out cases, promote or not."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from refine_ops import adapters as registry
from refine_ops import storage
from refine_ops.config import PatchSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.compare import known_metric
from refine_ops.eval.config import RefineEvalConfig, RefinerMethod
from refine_ops.eval.decision import Criterion, PromotionDecision, decide
from refine_ops.eval.metrics.drift import RAW_DE00, RAW_SHIFT
from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.results import Results
from refine_ops.eval.run import evaluate
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.promotion.regate import regate
from refine_ops.train.run import TrainResult
from refine_ops.train.run_folder import training_settings

logger = logging.getLogger(__name__)

_BASE: Final = "the base model"
_BASE_PRESET: Final = ("zero_cond_t", "mask_image", "mask_pixels", "focus_pixels", "vlm_pixels")


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """What was decided of one version; `incumbent` is None where it was compared with the base model alone."""

    version: str
    incumbent: str | None
    decision: PromotionDecision
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


def decide_promotion(config: TrainLoraConfig, version: str) -> PromotionResult:
    """Evaluate a version and the current adapter (or, before the first promotion, the bare base) on the same held-out
    cases, and promote it if it is not worse and, where gates are fitted, its gate publishes no less. Outputs, tables
    and calibrations stay under `config.out/eval`.

    Raises:
        JobError: the primary metric cannot be measured, or somebody moved the pointer meanwhile.
    """
    place, settings = registry_of(config), config.promotion
    primary = known_metric(settings.metric)
    now = registry.current(place)
    incumbent = None if now is None else now.version
    if incumbent == version:
        return PromotionResult(
            version, incumbent, PromotionDecision("keep", ()), False, (f"{version} is current already",)
        )
    if version in registry.rolled_back(place):
        note = (
            f"{version} was taken back once; no schedule makes it current again. By hand: refine-ops adapters promote "
            f"{version} --registry {place}"
        )
        return PromotionResult(version, incumbent, PromotionDecision("keep", ()), False, (note,))
    old, new = (_method(config, v) for v in (incumbent, version))
    evaluation = RefineEvalConfig(
        out=str(Path(config.out) / "eval"),
        cases=settings.cases,
        limit=settings.limit,
        metrics=settings.metrics,
        methods=(old, new),
        primary=primary.name,
        limits=config.limits,
    )
    results = evaluate(evaluation).results
    criteria = _criteria(config, results, primary)
    decision = decide(results, old.name, new.name, criteria, min_cases=settings.min_cases, power=settings.power)
    logger.info("%s against %s: %s", new.name, old.name, decision.summary)
    promoted, notes = decision.verdict == "promote", _notes(place, version, incumbent)
    if promoted and settings.calibrate is not None:
        calibrations = str(Path(config.out) / "eval" / version)
        gate = regate(settings.calibrate, place, version, incumbent, new.refine, old.refine, calibrations)
        notes.append(gate.note)
        promoted = gate.accepted
        logger.info("%s: %s", version, gate.note)
    if promoted:
        registry.promote(place, version, decision.summary, expected=None if now is None else now.index)
    return PromotionResult(version, incumbent, decision, promoted, tuple(notes))


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


def _method(config: TrainLoraConfig, version: str | None) -> RefinerMethod:
    """The base with this version, or alone, run as production runs it."""
    adapters = config.model.adapters
    if version is not None:
        adapters = (*adapters, str(registry.resolve(version, registry_of(config)).file))
    return RefinerMethod(name=version or _BASE, refine=refined_with(config, adapters, config.promotion.refine))


def refined_with(config: TrainLoraConfig, adapters: tuple[str, ...], around: PatchSettings) -> RefineSettings:
    """The training's base with these adapters; what happens `around` the model is as given."""
    model = config.model.model_copy(update={"adapters": adapters})
    return RefineSettings(model=model, focus=around.focus, align=around.align, paste=around.paste, limits=config.limits)


def _criteria(config: TrainLoraConfig, results: Results, primary: Metric) -> list[Criterion]:
    """The primary metric and, where any drift was measured, its two."""
    settings = config.promotion
    if not all(results.values(name, primary.name) for name in results.methods):
        notes = [note for name in results.methods[::-1] for note in results.notes(name, primary.name)]
        raise JobError(
            f"promotion.metric {primary.name!r} was measured on no held-out input: "
            f"{'; '.join(dict.fromkeys(notes)) or 'not asked for'}. "
            "Set promotion.metrics.weights, or another promotion.metric ('psnr_mask' needs no weights)"
        )
    criteria = [Criterion(primary, settings.delta)]
    if any(results.values(name, RAW_DE00.name) for name in results.methods):
        criteria += [Criterion(RAW_DE00, settings.de00_delta), Criterion(RAW_SHIFT, settings.shift_delta)]
    return criteria


def _notes(place: str, version: str, incumbent: str | None) -> list[str]:
    """What differs between the two trainings besides their data, for people."""
    if incumbent is None:
        return ["no adapter was current: compared with the base model alone"]
    old, new = registry.show(place, incumbent), registry.show(place, version)
    return [f"against {incumbent}, {line}" for line in registry.drift(old.base, new.base)]
