"""Editors: diffusers pipelines behind the same chain, with the numbers their makers run them with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.presets.preset import Preset
from refine_ops.model.presets.table import ONE_MP, EditorRow, row_of

OWN_REFINER: Final = "QwenImageEditPlusPipeline"
"""The class whose weights our own refiner runs (`refiner.py`); it is an editor only where `pipeline` names it."""
NO_EDITOR: Final = ("zero_cond_t", "mask_image", "mask_pixels", "targets")
"""Settings of our own refiner's network."""
_COUNTED: Final = ("guidance_scale", "strength")


@dataclass(frozen=True, slots=True)
class Licence:
    """What weights may be used for, as their makers say. `source` is where that was read."""

    name: str
    commercial: bool
    source: str


@dataclass(frozen=True, slots=True)
class EditorPreset(Preset):
    """How an editor is run.

    Attributes:
        pipeline: Its class; `presets/table.py` says how that is called.
        guidance_scale, strength: Passed where the class takes them; None: the class's own default.
        licence: Of the weights; None where nobody looked.
        weights_bytes: Of all components in bfloat16, counted (`tests/bench/bench_editors.py --parts count`); 0: not.
    """

    pipeline: str = ""
    guidance_scale: float | None = None
    strength: float | None = None
    licence: Licence | None = None
    weights_bytes: int = 0

    @property
    def row(self) -> EditorRow:
        """How its class is called."""
        return row_of(self.pipeline)


APACHE: Final = "Apache-2.0"
_FLUX_1: Final = Licence("FLUX.1 [dev] Non-Commercial License", False, "the weights' card, black-forest-labs")
_FLUX_2: Final = Licence("FLUX Non-Commercial License", False, "github.com/black-forest-labs/flux2, table of models")
_QWEN_RESEARCH: Final = Licence("Qwen RESEARCH LICENSE AGREEMENT", False, "the weights' LICENSE, Qwen")

_KLEIN: Final = EditorPreset(
    source="black-forest-labs/FLUX.2-klein-4B",
    pipeline="Flux2KleinPipeline",
    steps=4,
    true_cfg_scale=1.0,
    guidance_scale=1.0,  # distilled
    grid_px=16,
    licence=Licence(APACHE, True, "github.com/black-forest-labs/flux2, table of models"),
    weights_bytes=15_960_000_000,
)
_KONTEXT: Final = EditorPreset(
    source="black-forest-labs/FLUX.1-Kontext-dev",
    pipeline="FluxKontextPipeline",
    steps=28,
    true_cfg_scale=1.0,
    guidance_scale=2.5,
    grid_px=16,
    licence=_FLUX_1,
    weights_bytes=33_740_000_000,
)
_QWEN_21: Final = EditorPreset(
    source="Qwen/Qwen-Image-2.1",
    pipeline="QwenImage21Pipeline",
    steps=40,
    true_cfg_scale=1.0,
    conditions="cached+text",
    licence=_QWEN_RESEARCH,
    weights_bytes=32_440_000_000,
)

EDITORS: Final = {
    "flux2-klein-4b": _KLEIN,
    "flux2-klein-4b-inpaint": replace(_KLEIN, pipeline="Flux2KleinInpaintPipeline"),
    # The one set of weights that was trained to keep its references' keys and values: another 9 B, another licence.
    "flux2-klein-9b-kv": replace(
        _KLEIN,
        source="black-forest-labs/FLUX.2-klein-9b-kv",
        pipeline="Flux2KleinKVPipeline",
        guidance_scale=None,
        conditions="cached",
        licence=_FLUX_2,
        weights_bytes=34_710_000_000,
    ),
    "flux1-kontext": _KONTEXT,
    "flux1-kontext-inpaint": replace(_KONTEXT, pipeline="FluxKontextInpaintPipeline"),
    "qwen-image-edit-inpaint": EditorPreset(
        source="Qwen/Qwen-Image-Edit",
        pipeline="QwenImageEditInpaintPipeline",
        steps=50,
        true_cfg_scale=4.0,
        strength=1.0,
        licence=Licence(APACHE, True, "the weights' card, Qwen"),
        weights_bytes=57_700_000_000,
    ),
    "qwen-image-2.1": _QWEN_21,
    # Distilled to the eight steps that its own configuration names.
    "qwen-image-2.1-turbo": replace(_QWEN_21, source="Qwen/Qwen-Image-2.1-Turbo", steps=8),
    "longcat-image-edit": EditorPreset(
        source="meituan-longcat/LongCat-Image-Edit",
        pipeline="LongCatImageEditPipeline",
        steps=50,
        true_cfg_scale=1.0,
        guidance_scale=4.5,
        grid_px=16,
        licence=Licence(APACHE, True, "the weights' card, meituan-longcat"),
        weights_bytes=29_290_000_000,
    ),
}


def editor_of(source: str, pipeline: str) -> EditorPreset:
    """An editor without a preset: nobody said how many steps it wants, so the class's usual numbers stand."""
    row = row_of(pipeline)
    return EditorPreset(
        source=source,
        pipeline=pipeline,
        steps=28,
        true_cfg_scale=row.usual_cfg,
        grid_px=row.grid_px,
        focus_pixels=min(ONE_MP, row.most_px),
        conditions=list(row.caches)[-1] if row.caches else "joint",
    )


def apply_to_editor(preset: EditorPreset, settings: ModelSettings) -> EditorPreset:
    """The preset with every field that the user set.

    Raises:
        JobError: it is told something that its class has no argument for; the message names both.
    """
    row = preset.row
    refused = [name for name in NO_EDITOR if getattr(settings, name) is not None] + (["fp8"] if settings.fp8 else [])
    if not row.inferred:
        refused += [n for n in (*_COUNTED, "true_cfg_scale") if getattr(settings, n) is not None and n not in row.takes]
        if settings.negative_prompt != " " and "negative_prompt" not in row.takes:
            refused.append("negative_prompt")
    if settings.conditions not in (None, *(row.caches or ("joint",))):
        refused.append(f"conditions {settings.conditions!r}")
    if refused:
        raise JobError(
            f"{preset.pipeline} takes no {', '.join(refused)}; leave {'them' if len(refused) > 1 else 'it'} out"
        )
    names = ("steps", "true_cfg_scale", "guidance_scale", "strength", "conditions", "reference")
    return replace(preset, **{name: value for name in names if (value := getattr(settings, name)) is not None})


def licence_of(preset: EditorPreset, folder: Path) -> Licence | None:
    """The licence of the weights: as the preset knows it, or as the card beside them (`README.md`) says; the card's
    where it forbids more, for a preset may be wrong or old."""
    card = _licence_on_card(folder / "README.md")
    return card if preset.licence is None or (card is not None and not card.commercial) else preset.licence


def _licence_on_card(card: Path) -> Licence | None:
    try:
        text = card.read_text()[: 1 << 16]
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    values = front if isinstance(front, dict) else {}
    name = str(values.get("license_name") or values.get("license") or "")
    words = name.lower().replace("_", "-").split("-")
    closed = "noncommercial" in words or "research" in words or "nc" in words or "non-commercial" in "-".join(words)
    return Licence(name, not closed, str(card)) if name else None


def said_of_licence(preset: Preset, folder: Path, settings: ModelSettings) -> str:
    """What a person must be told at every start where the weights' licence is not one for commerce; else empty.

    Raises:
        JobError: nobody has accepted it.
    """
    licence = licence_of(preset, folder) if isinstance(preset, EditorPreset) else None
    if licence is None or licence.commercial:
        return ""
    said = f"{settings.model}: its weights are under {licence.name}, for non-commercial use (as {licence.source} says)"
    if settings.licence != "accepted":
        raise JobError(f"{said}; read it, and set the model's `licence: accepted` if your use keeps to it")
    return said
