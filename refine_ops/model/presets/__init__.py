"""What each model wants: where its weights are, and every number that must match how it was trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import tiny
from refine_ops.model.presets.editors import EDITORS, OWN_REFINER, EditorPreset, apply_to_editor, editor_of
from refine_ops.model.presets.preset import (
    LIGHTNING_SHIFT,
    PIPELINE_GRID_PX,
    VAE_PIXELS,
    VLM_PIXELS,
    Conditions,
    LoraFile,
    MaskImage,
    Preset,
    Targets,
)

__all__ = [
    "CHANGING_CONDITIONS",
    "LIGHTNING_SHIFT",
    "PIPELINE_GRID_PX",
    "PRESETS",
    "TRANSFER",
    "VAE_PIXELS",
    "VLM_PIXELS",
    "Conditions",
    "EditorPreset",
    "LoraFile",
    "MaskImage",
    "Preset",
    "Targets",
    "apply_overrides",
    "default_preset",
    "resolve_preset",
]

_QWEN_2511: Final = "Qwen/Qwen-Image-Edit-2511"
_REFINE: Final = LoraFile("limuloo1999/RefineAnything", "Qwen-Image-Edit-2511-RefineAny.safetensors")
_LIGHTNING: Final = "lightx2v/Qwen-Image-Edit-2511-Lightning"

_REFINE_2511: Final = Preset(
    source=_QWEN_2511,
    loras=(_REFINE,),
    # The release pins diffusers 0.36, which did not know the flag 2511's config sets, so its LoRA saw it off
    # (inferred; compare both with `zero_cond_t: true`).
    zero_cond_t=False,
    # The released inference runs Lightning's schedule with and without that LoRA.
    shift=LIGHTNING_SHIFT,
)

CHANGING_CONDITIONS: Final = (
    "conditions {!r} with zero_cond_t false: the condition images are modulated by the time, so that they change in "
    "every step and cannot be cached; set zero_cond_t true (with an adapter trained so) or conditions 'joint'"
)
TRANSFER: Final = "transfer"
PRESETS: Final[dict[str, Preset]] = {
    "tiny": Preset(
        source=str(tiny.WEIGHTS),
        steps=tiny.STEPS,
        true_cfg_scale=tiny.TRUE_CFG_SCALE,
        grid_px=tiny.GRID_PX,
        focus_pixels=tiny.VAE_PIXELS,
        vlm_pixels=tiny.VLM_PIXELS,
        vlm_grid_px=tiny.VLM_GRID_PX,
        reference="registered",  # it copies by place
        tile_zoom=1.0,
    ),
    "refineanything-2511": _REFINE_2511,
    "refineanything-2511-lightning-8": replace(
        _REFINE_2511,
        loras=(_REFINE, LoraFile(_LIGHTNING, "Qwen-Image-Edit-2511-Lightning-8steps-V1.0-bf16.safetensors")),
        steps=8,
        true_cfg_scale=1.0,
    ),
    "refineanything-2511-lightning-4": replace(
        _REFINE_2511,
        loras=(_REFINE, LoraFile(_LIGHTNING, "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors")),
        steps=4,
        true_cfg_scale=1.0,
    ),
    # The base models are not refiners, but baselines; their own configs hold.
    "qwen-image-edit-2511": Preset(source=_QWEN_2511, steps=40),
    "qwen-image-edit-2509": Preset(source="Qwen/Qwen-Image-Edit-2509", steps=40),
    # No network: the registered reference itself. Nothing of a schedule or a language model applies.
    TRANSFER: Preset(source="", steps=1, true_cfg_scale=1.0, grid_px=8, reference="registered", tile_zoom=1.0),
    **EDITORS,
}


def resolve_preset(settings: ModelSettings) -> Preset:
    """The preset named by `settings.model`, or a default one for a folder or hub name; overrides are not applied yet.

    Raises:
        JobError: The name is neither a preset, nor a folder, nor a hub name.
    """
    name = settings.model
    if name in PRESETS:
        preset = PRESETS[name]
        if settings.pipeline is None:
            return preset
        if name in ("tiny", TRANSFER) or not isinstance(preset, EditorPreset):
            return editor_of(preset.source, settings.pipeline)
        return replace(preset, pipeline=settings.pipeline)
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return default_preset(name, Path(name), settings.pipeline)
    raise JobError(
        f"model {name!r} is not a preset ({', '.join(PRESETS)}), not a folder in diffusers' layout and not a hub name "
        "(owner/model); correct `model`"
    )


def default_preset(source: str, folder: Path, pipeline: str | None) -> Preset:
    """What runs the weights of `source`, which may lie in `folder` already: our own refiner, or an editor by the class
    that `model_index.json` names, unless `pipeline` names another."""
    found = pipeline or _class_in(folder)
    return Preset(source=source) if found in (None, OWN_REFINER) and pipeline is None else editor_of(source, str(found))


def _class_in(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def apply_overrides(preset: Preset, settings: ModelSettings) -> Preset:
    """The preset with every field that the user set.

    Raises:
        JobError: The combination cannot be run.
    """
    if isinstance(preset, EditorPreset):
        return apply_to_editor(preset, settings)
    for name in ("guidance_scale", "strength", "offload"):
        if getattr(settings, name):
            raise JobError(f"{settings.model!r} takes no {name}: only editors do; leave it out")
    names = (
        "steps",
        "true_cfg_scale",
        "zero_cond_t",
        "mask_image",
        "mask_pixels",
        "targets",
        "conditions",
        "reference",
    )
    preset = replace(preset, **{name: value for name in names if (value := getattr(settings, name)) is not None})
    if settings.speed == "reference":
        wishes = {
            "targets 'sparse'": preset.targets == "sparse",
            f"conditions {preset.conditions!r}": preset.conditions != "joint",
            "compile": settings.compile,
            "fp8": settings.fp8,
        }
        if asked := [name for name, wished in wishes.items() if wished]:
            raise JobError(f"speed 'reference' is diffusers as it is, without {', '.join(asked)}; set speed 'fast'")
    if preset.conditions != "joint" and preset.zero_cond_t is False:
        raise JobError(CHANGING_CONDITIONS.format(preset.conditions))
    return preset
