"""The doctor on an editor: what its class takes, what its weights may be used for, and whether this machine holds it.

Numbers come from counting bytes; how long a region takes, only a run tells (`refine-ops doctor --run`).
"""

from collections.abc import Iterator
from typing import Final

import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.checks import CheckResult
from refine_ops.model.editor.load import pipeline_class
from refine_ops.model.editor.signature import checked
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.load import model_dtype
from refine_ops.model.presets import EditorPreset, apply_overrides, resolve_preset
from refine_ops.model.presets.editors import Licence, licence_of, said_of_licence
from refine_ops.model.source import ResolvedModel

_ROOM: Final = 1.15
"""Device memory wanted, as a multiple of the weights on it; what a region takes beside them is not measured here."""
_GB: Final = 1e9


def resolve_or_none(settings: ModelSettings) -> EditorPreset | None:
    """The editor that is meant, where it can be told without its weights."""
    try:
        preset = apply_overrides(resolve_preset(settings), settings)
    except JobError:
        return None
    return preset if isinstance(preset, EditorPreset) else None


def before_download(preset: EditorPreset) -> Iterator[CheckResult]:
    """What is known of weights that are not here."""
    yield from _facts(preset, preset.licence)
    if preset.weights_bytes:
        yield CheckResult("weights", True, f"{preset.weights_bytes / _GB:.1f} GB in bfloat16, counted")


def examine(model: ResolvedModel, settings: ModelSettings, device: torch.device) -> Iterator[CheckResult]:
    """Files with their hashes, the class's signature against its row, licence, room."""
    preset = model.preset
    assert isinstance(preset, EditorPreset)
    yield CheckResult(f"model {settings.model}", True, str(model.folder))
    for key, value in fingerprint_model(model, settings).items():
        if key.startswith(("weights.", "lora.")):
            yield CheckResult(key, True, value)
    yield from _facts(preset, licence_of(preset, model.folder))
    try:
        said = said_of_licence(preset, model.folder, settings)
        checked(pipeline_class(preset), preset, settings)
    except JobError as error:
        yield CheckResult("call", False, "a run would be refused", str(error))
    else:
        yield CheckResult("call", True, "the class takes what its row names" + (f"; {said}" if said else ""))
    yield from _room(model, settings, device)


def _facts(preset: EditorPreset, licence: Licence | None) -> Iterator[CheckResult]:
    row = preset.row
    takes = [
        f"{row.references or 'no'} references beside the crop",
        "the mask" if row.mask else "no mask",
        *sorted(row.takes),
        f"crops of {row.least_px} px a side to {row.most_px:,} px in all",
        "several regions per call" if row.batched else "one region per call",
    ]
    yield CheckResult(
        "pipeline", True, f"{preset.pipeline}: {'read off its signature' if row.inferred else ', '.join(takes)}"
    )
    guided = max(preset.true_cfg_scale, preset.guidance_scale or 0.0) > 1
    twice = ", the network twice each where guidance is classifier-free" if guided else ""
    yield CheckResult("steps", True, f"{preset.steps}{twice}")
    if licence is None:
        yield CheckResult("licence", True, "nobody said: read the weights' card")
        return
    use = "" if licence.commercial else ", for non-commercial use"
    yield CheckResult("licence", True, f"{licence.name}{use} (as {licence.source} says)")


def _room(model: ResolvedModel, settings: ModelSettings, device: torch.device) -> Iterator[CheckResult]:
    """Bytes by component, taking the files to be in bfloat16, and whether they fit."""
    sizes = {
        part: sum(path.stat().st_size for path in (model.folder / part).glob("*.safetensors"))
        for part in model.components
    }
    sizes = {part: size for part, size in sizes.items() if size}
    dtype = model_dtype(settings, device)
    each = ", ".join(f"{part} {size / _GB:.2f}" for part, size in sorted(sizes.items()))
    yield CheckResult("weights", True, f"{sum(sizes.values()) / _GB:.2f} GB of files ({each}); dtype {dtype}")
    if device.type != "cuda" or not torch.cuda.is_available():
        yield CheckResult("room for the model", True, "no GPU here: nothing to hold it against")
        return
    factor = _ROOM * (2 if dtype == torch.float32 else 1)
    free = torch.cuda.mem_get_info(device)[0]
    whole, largest = sum(sizes.values()) * factor, max(sizes.values(), default=0) * factor
    wanted = largest if settings.offload else whole
    remedy = "use a larger device, or free memory that other processes hold"
    if largest <= free < whole:
        remedy = f"set the model's offload: its largest component wants {largest / 2**30:.1f} GiB"
    yield CheckResult(
        "room for the model",
        free >= wanted,
        f"{wanted / 2**30:.1f} GiB wanted, {free / 2**30:.1f} GiB free",
        "" if free >= wanted else remedy,
    )
