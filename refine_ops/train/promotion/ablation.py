"""Table 3 of the paper: the same training with the focus crop or the boundary loss left out, on held-out cases."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from refine_ops.config import PatchSettings
from refine_ops.errors import JobError
from refine_ops.eval.config import CONTROLS, RefineEvalConfig, RefinerMethod, without_focus
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.promotion.promote import refined_with

WHOLE: Final = "with both"
WITHOUT_FOCUS: Final = "without focus"
WITHOUT_BOUNDARY: Final = "without boundary loss"
BASE: Final = "base model"


@dataclass(frozen=True, slots=True)
class Variant:
    """One training, and how its adapter is run: each as it was trained."""

    name: str
    train: TrainLoraConfig
    refine: PatchSettings


def variants(config: TrainLoraConfig) -> tuple[Variant, ...]:
    """The training as configured, and once without each part; data, order, noise and steps are the same.

    Runs lie under `config.out`; crops that two of them share are encoded once.

    Raises:
        JobError: the configured training lacks one of the two parts itself.
    """
    if not config.crop.focus or config.loss.boundary_alpha == 0:
        raise JobError(
            "an ablation starts from the whole method: set crop.focus to true and loss.boundary_alpha above 0"
        )
    refine = config.promotion.refine
    return (
        _variant(config, WHOLE, refine, {}),
        _variant(
            config, WITHOUT_FOCUS, without_focus(refine), {"crop": config.crop.model_copy(update={"focus": False})}
        ),
        _variant(config, WITHOUT_BOUNDARY, refine, {"loss": config.loss.model_copy(update={"boundary_alpha": 0.0})}),
    )


def evaluation(config: TrainLoraConfig, adapters: Mapping[str, Path]) -> RefineEvalConfig:
    """RefineEval on the held-out cases: the variants with their adapters, the bare base, the untouched input."""
    held_out = config.promotion
    trained = [_method(config, v.name, v.refine, (str(adapters[v.name]),)) for v in variants(config)]
    return RefineEvalConfig(
        cases=held_out.cases,
        out=str(Path(config.out) / "table-3"),
        methods=(
            *trained,
            _method(config, BASE, held_out.refine, ()),
            *(c for c in CONTROLS if c.control == "identity"),
        ),
        limit=held_out.limit,
        metrics=held_out.metrics,
        limits=config.limits,
    )


def _variant(config: TrainLoraConfig, name: str, refine: PatchSettings, changes: dict[str, Any]) -> Variant:
    out = Path(config.out)
    slug = re.sub(r"\W+", "-", name)
    places = {"out": str(out / slug), "cache": config.cache or str(out / "cache"), "registry": None}
    return Variant(name, config.model_copy(update=places | changes), refine)


def _method(config: TrainLoraConfig, name: str, refine: PatchSettings, adapters: tuple[str, ...]) -> RefinerMethod:
    run = refined_with(config, (*config.model.adapters, *adapters), refine)
    return RefinerMethod(name=name, refine=run, ablation=name != WHOLE)
