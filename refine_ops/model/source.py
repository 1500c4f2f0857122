"""From a model's name to files on this disk: what will be loaded, before anything is.

Nothing is downloaded unless `allow_hub` is set; without it a hub name must already be in the local cache. Torch is not
needed: whoever plans must know what will be loaded, and what an adapter says of itself.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from refine_ops.adapters import in_force, resolve
from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.presets import (
    TRANSFER,
    EditorPreset,
    Preset,
    apply_overrides,
    default_preset,
    resolve_preset,
)
from refine_ops.model.pretrained import file_of, folder_of

COMPONENTS: Final = ("transformer", "vae", "text_encoder", "tokenizer", "processor", "scheduler")
PRESET_FILE: Final = "refine_ops.json"
"""Optional file beside `model_index.json`: fields of Preset that this checkpoint was trained with."""
LORA_NAMES: Final = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
METADATA_KEY: Final = "refine_ops"
"""Header entry in which our trainer states, as JSON, the fields of Preset that an adapter was trained with."""
_PATTERNS: Final = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_EDITOR_PATTERNS: Final = ["model_index.json", "README.md", *(f"*/{pattern}" for pattern in _PATTERNS), "*/*.model"]
"""Of components only: beside them a repository may hold all of it once more in one file."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What is about to be loaded: the preset in force, the pipeline's folder, LoRA files and their scales."""

    preset: Preset
    folder: Path
    loras: tuple[tuple[Path, float], ...]

    @property
    def components(self) -> tuple[str, ...]:
        """Folders of the pipeline that hold files: all that `model_index.json` lists of an editor."""
        if not isinstance(self.preset, EditorPreset):
            return COMPONENTS
        return tuple(sorted(name for name in components_of(self.folder) if (self.folder / name).is_dir()))


def resolve_model(settings: ModelSettings) -> ResolvedModel:
    """Locate the model and its LoRAs.

    Precedence, lowest first: the preset, the checkpoint's own `refine_ops.json`, what the adapters say they were
    trained with, the user's settings.

    Raises:
        JobError: A file is missing or not what it should be; the message says what to do.
    """
    preset = resolve_preset(settings)
    if settings.model == TRANSFER:
        _refuse_network_settings(settings)
        return ResolvedModel(apply_overrides(preset, settings), Path(), ())
    unknown = preset.source == settings.model and not isinstance(preset, EditorPreset)
    patterns = _EDITOR_PATTERNS if isinstance(preset, EditorPreset) or unknown else _PATTERNS
    folder = folder_of(preset.source, settings.allow_hub, patterns)
    if unknown:  # a hub name says what it is once it is here
        preset = default_preset(preset.source, folder, settings.pipeline)
    if isinstance(preset, EditorPreset):
        _check_editor(folder)
    else:
        _check_folder(folder)
    loras = [(file_of(lora.repo, lora.name, settings.allow_hub, "LoRA"), lora.scale) for lora in preset.loras]
    adapters = [_adapter_file(name, settings.registry) for name in in_force(settings.adapters, settings.registry)]
    preset = _with_fields(preset, _read_preset_file(folder), str(folder / PRESET_FILE))
    for adapter in adapters:
        preset = _with_fields(preset, training_settings(adapter), str(adapter))
    return ResolvedModel(
        preset=apply_overrides(preset, settings),
        folder=folder,
        loras=(*loras, *((adapter, 1.0) for adapter in adapters)),
    )


def _refuse_network_settings(settings: ModelSettings) -> None:
    asked = {"adapters": settings.adapters, "first": settings.first, "reference": settings.reference == "as_given"}
    if names := [name for name, value in asked.items() if value]:
        raise JobError(f"model 'transfer' has no network and registers its references: leave out {', '.join(names)}")


def _check_folder(folder: Path) -> None:
    missing = [name for name in ("model_index.json", *COMPONENTS) if not (folder / name).exists()]
    if missing:
        raise JobError(f"{folder} is no pipeline in diffusers' layout: {', '.join(missing)} missing")


def _check_editor(folder: Path) -> None:
    missing = [name for name in components_of(folder) if not (folder / name).is_dir()]
    if missing:
        raise JobError(f"{folder}: model_index.json lists {', '.join(missing)}, and no such folder is there")


def components_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Name -> (library, class) of every component that `model_index.json` lists and has.

    Raises:
        JobError: there is no such file, or it is not what it should be.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise JobError(f"{folder} is no pipeline in diffusers' layout: model_index.json missing")
    listed = parse_fields(path.read_text(), str(path))
    return {
        name: (value[0], value[1])
        for name, value in listed.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    }


def _adapter_file(name: str, registry: str | None) -> Path:
    path = Path(name)
    if path.is_dir():
        found = [path / file for file in LORA_NAMES if (path / file).is_file()]
        if len(found) != 1:
            raise JobError(
                f"adapter folder {path} holds {len(found)} of {', '.join(LORA_NAMES)}; exactly one is needed"
            )
        return found[0]
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if registry is None or path.exists():
        raise JobError(
            f"adapter {name!r} is not a .safetensors file or a folder with one on this machine; for the name of an "
            "adapter in a registry, set `registry` too"
        )
    return resolve(name, registry).file


def _read_preset_file(folder: Path) -> dict[str, Any]:
    path = folder / PRESET_FILE
    if not path.is_file():
        return {}
    return parse_fields(path.read_text(), str(path))


def _with_fields(preset: Preset, values: dict[str, Any], origin: str) -> Preset:
    fixed = {"source", "loras", "licence", "weights_bytes", "pipeline"}
    allowed = {field.name for field in dataclasses.fields(preset)} - fixed
    unknown = sorted(values.keys() - allowed)
    if unknown:
        raise JobError(f"{origin} sets unknown fields {', '.join(unknown)}; known are {', '.join(sorted(allowed))}")
    try:
        merged = json.dumps({**dataclasses.asdict(preset), **values})
        return TypeAdapter(type(preset)).validate_json(merged, strict=True)
    except ValidationError as error:
        raise JobError(f"{origin}: {error}") from error


def training_settings(path: Path) -> dict[str, Any]:
    """What the adapter's header says it was trained with (`targets`, `mask_image` ...); empty if it says nothing."""
    return parse_fields(header_of(path).get(METADATA_KEY, "{}"), f"LoRA {path}, header entry {METADATA_KEY!r}")


def parse_fields(text: str, origin: str) -> dict[str, Any]:
    """A JSON object as a dict; `origin` names where it was found.

    Raises:
        JobError: It is no JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise JobError(f"{origin} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise JobError(f"{origin} is not a JSON object")
    return values


def header_of(path: Path) -> dict[str, str]:
    """The file's own entries; raises `JobError` where it is no safetensors file."""
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise JobError(f"LoRA {path} cannot be read as safetensors: {error}") from error
