"""What a pipeline's class is called with: its signature against its row of the table, before anything is loaded."""

import inspect
from dataclasses import replace
from typing import Any, Final

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.presets import EditorPreset
from refine_ops.model.presets.table import EditorRow

_GUIDING: Final = ("guidance_scale", "strength")
_INFERABLE: Final = ("negative_prompt", "true_cfg_scale", *_GUIDING)


def checked(pipeline: type, preset: EditorPreset, settings: ModelSettings) -> tuple[EditorRow, EditorPreset]:
    """The row and the preset in force for a class, after its signature was read.

    Raises:
        JobError: The class has no argument for what it would be passed, or wants one that nothing gives.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    row = preset.row
    if row.inferred:
        row, preset = _inferred(row, preset, settings, dict(parameters))
    names = _names(row, preset, settings)
    known = {name for name, found in parameters.items() if found.kind is not inspect.Parameter.VAR_KEYWORD}
    if unknown := sorted(names - known):
        raise JobError(
            f"{pipeline.__name__} takes no {', '.join(unknown)}; leave {'them' if len(unknown) > 1 else 'it'} out, or "
            "correct its row in presets/table.py"
        )
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [
        name
        for name, found in parameters.items()
        if name != "self" and found.default is inspect.Parameter.empty and found.kind not in variable
    ]
    if missing := sorted(set(wanted) - names):
        raise JobError(
            f"{pipeline.__name__} needs {', '.join(missing)}, which nothing gives; add it to its row in "
            "presets/table.py, or use another pipeline"
        )
    if settings.batch_size not in (None, 1) and not row.batched:
        raise JobError(
            f"{pipeline.__name__} takes one region at a time, batch_size is {settings.batch_size}; leave it out"
        )
    return row, preset


def _inferred(
    row: EditorRow, preset: EditorPreset, settings: ModelSettings, parameters: dict[str, inspect.Parameter]
) -> tuple[EditorRow, EditorPreset]:
    """A row read off a signature, by the names that diffusers' pipelines share."""
    usual = parameters["true_cfg_scale"].default if "true_cfg_scale" in parameters else None
    if settings.true_cfg_scale is None and isinstance(usual, int | float):
        preset = replace(preset, true_cfg_scale=max(1.0, float(usual)))
    asked = {name for name in _INFERABLE if name != "negative_prompt" and getattr(settings, name) is not None}
    return replace(
        row,
        mask="mask_image" if "mask_image" in parameters else "",
        takes=frozenset(asked | {name for name in _INFERABLE if name in parameters}),
        sizing="given" if {"height", "width"} <= parameters.keys() else "none",
    ), preset


def fixed_arguments(row: EditorRow, preset: EditorPreset, settings: ModelSettings) -> dict[str, Any]:
    """Arguments that are the same for every region."""
    given: dict[str, Any] = {"num_inference_steps": preset.steps, **row.always, **row.caches.get(preset.conditions, {})}
    given |= {n: value for n in _GUIDING if n in row.takes and (value := getattr(preset, n)) is not None}
    negative = "negative_prompt" in row.takes
    if "true_cfg_scale" in row.takes:
        given["true_cfg_scale"] = preset.true_cfg_scale
        negative = negative and preset.true_cfg_scale > 1  # without one these pipelines silently skip guidance
    else:
        negative = negative and settings.negative_prompt != " "
    return given | ({"negative_prompt": settings.negative_prompt} if negative else {})


def size_arguments(row: EditorRow, size: tuple[int, int]) -> dict[str, int]:
    width, height = size
    if row.sizing in ("own", "none"):
        return {}
    given = {"height": height, "width": width}
    if row.sizing == "area":
        given["max_area"] = width * height
    if row.sizing == "resolution":
        given["output_resolution"] = round((width * height) ** 0.5)
    return given


def _names(row: EditorRow, preset: EditorPreset, settings: ModelSettings) -> set[str]:
    size = size_arguments(row, (row.grid_px, row.grid_px))
    pictures = {row.image, *filter(None, (row.mask, row.reference))}
    return {"prompt", "generator", "output_type", *fixed_arguments(row, preset, settings), *size, *pictures}
