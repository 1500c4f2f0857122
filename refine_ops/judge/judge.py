"""The judge of a run: which gate rules over what, and what reads text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from refine_ops import adapters
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import JobError
from refine_ops.identity import versions as versions_of
from refine_ops.judge.evidence.text import Reader, absent_packages, open_reader
from refine_ops.judge.gate import REASONS, Gate, gate_for, gate_from, rule
from refine_ops.model.presets import TRANSFER
from refine_ops.records import Evidence, MadeBy, RegionOutcome, Ruling

_READERS: Final = ("rapidocr", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Judge:
    """Rules by what made the pixels: `gates` holds those that were calibrated. Safe in several threads."""

    gates: Mapping[MadeBy, Gate] = field(default_factory=dict)
    read_text: bool = False
    reader: Reader | None = None

    def rule(self, evidence: Evidence, made_by: MadeBy) -> Ruling:
        """By that maker's gate, or by the fixed rules where it has none."""
        return rule(evidence, self.gates.get(made_by))

    @property
    def promises(self) -> dict[str, dict[str, Any]]:
        """What each calibrated gate promises (`Gate.promise`), by the maker whose regions it rules over."""
        return {maker: dict(gate.promise) for maker, gate in self.gates.items()}

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a ruling depends on beside the pixels, by name."""
        makers: tuple[MadeBy, ...] = ("model", "transfer")
        found = {f"gate.{m}": self.gates[m].fingerprint if m in self.gates else "fixed rules" for m in makers}
        return found | (
            {f"package.{name}": v for name, v in versions_of(("rapidocr",)).items()} if self.read_text else {}
        )


def open_judge(settings: RefineSettings, *, rules_only: bool = False) -> Judge | None:
    """The judge of a run; None where everything is published.

    Args:
        rules_only: Do not load what reads text: it will measure nothing.

    Raises:
        JobError: a gate is there and cannot be read, or the adapter cannot be found, or what reads text is wanted and
            not installed.
    """
    if settings.publish == "all":
        return None
    model = settings.model
    gates: dict[MadeBy, Gate] = {}
    if model.model != TRANSFER and (gate := _network_gate(model)) is not None:
        gates["model"] = gate
    if TRANSFER in (model.model, model.first) and (gate := gate_for(TRANSFER)) is not None:
        gates["transfer"] = gate
    if settings.read_text and (absent := absent_packages()):
        raise JobError(f"read_text needs {', '.join(absent)}: pip install 'refine-ops[eval]', or leave it off")
    reader = open_reader() if settings.read_text and not rules_only else None
    return Judge(gates, settings.read_text, reader)


def said_without_gate(settings: RefineSettings, judge: Judge | None) -> str:
    """What a person must be told once where a model has no calibrated gate; empty where it has one."""
    maker: MadeBy = "transfer" if settings.model.model == TRANSFER else "model"
    if judge is None or maker in judge.gates:
        return ""
    name = "+".join((settings.model.model, *settings.model.adapters))
    return (
        f"no gate was calibrated for {name}: regions are held by fixed rules only (detail, text or reference lost, "
        "nothing changed), and nobody promises how many of the published ones are worse. `refine-ops calibrate` fits "
        "one; publish=all switches judging off."
    )


def held_message(regions: tuple[RegionOutcome, ...]) -> str:
    """Why each region that was not accepted is held, in words."""
    held = [r for r in regions if not r.accepted]
    return "; ".join(f"{json.dumps(r.region_id, ensure_ascii=False)}: {why_held(r)}" for r in held)


def why_held(region: RegionOutcome) -> str:
    """Why one region is held, in words."""
    assert region.ruling is not None
    tried = f" ({region.candidates} candidates)" if region.candidates > 1 else ""
    return in_words(region.ruling.reason) + tried


def in_words(reason: str) -> str:
    """What a ruling's reason says."""
    return REASONS.get(reason, reason)


def _network_gate(model: ModelSettings) -> Gate | None:
    """An adapter's gate is its own; of several together nobody has measured anything."""
    if not model.adapters:
        return gate_for(model.model)
    if len(model.adapters) > 1:
        return None
    adapter = Path(model.adapters[0])
    if not adapter.exists() and model.registry is not None:
        card = adapters.show(model.registry, model.adapters[0])
        return gate_from(adapters.read_gate(model.registry, card.version), f"{card.version} in {model.registry}")
    return gate_for(model.model, str(adapter if adapter.is_dir() else adapter.parent))
