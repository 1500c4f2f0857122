"""A gate for a version that would be promoted: fitted on its own results, and no worse than the one in force."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from refine_ops import adapters as registry
from refine_ops import storage
from refine_ops.config import RefineSettings
from refine_ops.errors import JobError
from refine_ops.eval.gates.config import CalibrateConfig, CalibrationSettings
from refine_ops.eval.gates.run import run_calibration
from refine_ops.judge.gate import SHIPPED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a gate publishes of the cases that its score has not seen, in [0, 1], and what those cases were."""

    coverage: float
    about: str

    @classmethod
    def of(cls, gate: bytes) -> "Standing":
        data: dict[str, Any] = json.loads(gate)
        return cls(float(data.get("card", {}).get("coverage", 0.0)), str(data["promise"].get("about", "")))


@dataclass(frozen=True, slots=True)
class Regated:
    """Whether a version may be promoted as far as its gate goes, and why, for people."""

    accepted: bool
    note: str


def regate(
    settings: CalibrationSettings,
    place: str,
    version: str,
    incumbent: str | None,
    new: RefineSettings,
    old: RefineSettings,
    out: str,
) -> Regated:
    """Fit a gate for `version`, keep it beside it, and compare what the two publish.

    An incumbent's gate that was fitted on other cases is fitted again on these, for the comparison alone.

    Args:
        place: The registry.
        incumbent: The version in force; None: the bare base model.
        new, old: How the two are run.
        out: Folder of the calibrations; the same one continues.
    """
    in_force = registry.read_gate(place, incumbent) if incumbent else _shipped(old)
    made, missing = _fit(settings, new, version, storage.join(out, "gate"))
    if made is not None:
        made = registry.add_gate(place, version, made)
    before = None if in_force is None else Standing.of(in_force)
    after = None if made is None else Standing.of(made)
    if before is not None and after is not None and before.about != after.about:
        again, _ = _fit(settings, old, incumbent or "the base model", storage.join(out, "gate-in-force"))
        before = Standing(0.0, after.about) if again is None else Standing.of(again)
    return compared(before, after, missing)


def compared(before: Standing | None, after: Standing | None, missing: str = "") -> Regated:
    """The rule: nothing is promoted whose gate publishes less than the one in force.

    Args:
        before, after: None where there is no gate.
        missing: Why none could be fitted.
    """
    if after is None and before is None:
        return Regated(True, f"no gate, as before: fixed rules hold what is worse ({missing})")
    if after is None:
        return Regated(False, f"the one in force has a gate, and for this one none can be fitted: {missing}")
    if before is None:
        return Regated(True, f"its gate publishes {after.coverage:.0%}; the one in force has none")
    said = f"its gate publishes {after.coverage:.0%} of the same cases, the one in force {before.coverage:.0%}"
    return Regated(after.coverage >= before.coverage, said)


def _fit(settings: CalibrationSettings, refine: RefineSettings, name: str, out: str) -> tuple[bytes | None, str]:
    logger.info("fitting a gate for %s at %s", name, out)
    try:
        made = run_calibration(CalibrateConfig(**settings.model_dump(), out=out, refine=refine, name=name))
    except JobError as e:  # no result is worse, or all are: there is no gate, and a training must not fail of it
        return None, str(e)
    return (json.dumps(made.file(), indent=1, sort_keys=True).encode() + b"\n" if made.gate else None), made.missing


def _shipped(settings: RefineSettings) -> bytes | None:
    path = SHIPPED.get(settings.model.model)
    return path.read_bytes() if path is not None and path.is_file() and not settings.model.adapters else None
