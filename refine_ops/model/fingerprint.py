"""What determines the pixels, as strings that can be compared and named when they differ."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from refine_ops.config import ModelSettings
from refine_ops.identity import NETWORK_PACKAGES, TRANSFER_PACKAGES, versions
from refine_ops.model.presets import TRANSFER
from refine_ops.model.source import COMPONENTS, ResolvedModel

_HASH_THREADS: Final = 8
_SUFFIXES: Final = frozenset({".safetensors", ".json", ".txt", ".jinja"})


def fingerprint_model(model: ResolvedModel, settings: ModelSettings) -> dict[str, str]:
    """Name -> value for every component's files, every LoRA, the preset in force, settings and library versions.

    Paths do not enter: a copy of the same model elsewhere has the same fingerprint. Nothing is loaded, so a process
    without a GPU can compute it.
    """
    if settings.model == TRANSFER:
        return {"model": TRANSFER} | {f"version.{name}": found for name, found in versions(TRANSFER_PACKAGES).items()}
    values = {f"weights.{part}": hash_folder(model.folder / part) for part in COMPONENTS}
    for index, (path, scale) in enumerate(model.loras):
        values[f"lora.{index}"] = f"{_hash_file(path)} x {scale}"
    preset = dataclasses.asdict(model.preset)
    values |= {f"preset.{name}": json.dumps(preset[name]) for name in preset.keys() - {"source", "loras"}}
    for name in ("negative_prompt", "target_ring", "speed", "compile", "fp8", "dtype", "batch_size", "first"):
        values[f"settings.{name}"] = json.dumps(getattr(settings, name))
    return values | {f"version.{name}": found for name, found in versions(NETWORK_PACKAGES).items()}


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's weights, configurations and vocabularies."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        hashes = list(pool.map(_hash_file, files))
    lines = "\n".join(
        f"{path.relative_to(folder).as_posix()} {digest}" for path, digest in zip(files, hashes, strict=True)
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def _hash_file(path: Path) -> str:
    """SHA-256 of a file; where it lies in the hub's cache under its SHA-256, the name is trusted and nothing read."""
    blob = path.resolve().name
    if path.is_symlink() and len(blob) == 64 and all(digit in "0123456789abcdef" for digit in blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
