"""`refine-ops doctor`: is this machine fit to refine with this model, and does it compute the right numbers?

Every finding is a fact, whether it is as it should be, and the remedy if not. Nothing is printed or written here.
"""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from packaging.requirements import Requirement

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.checks import (
    CheckResult,
    check_attention,
    check_positions,
    check_refinement,
    check_zero_cond_t,
)
from refine_ops.model.doctor.editor import before_download, examine, resolve_or_none
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.load import model_dtype
from refine_ops.model.presets import EditorPreset
from refine_ops.model.source import ResolvedModel, resolve_model

_LIBRARIES: Final = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors")
_ROOM: Final = 1.15
"""Device memory wanted, as a multiple of the weights: activations of one 1024^2 crop take about a tenth."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order they were made."""

    findings: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is off."""
        return all(finding.ok for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(settings: ModelSettings, device: torch.device) -> Diagnosis:
    """Examine libraries, device, files and numerics; the model itself is not loaded. Takes seconds plus hashing.

    Of an editor: whether this machine holds it and whether its class can be called as its row says; the numerics are
    our own refiner's.
    """
    findings = [*_libraries(), *_device(device), *check_attention(device)]
    try:
        model = resolve_model(settings)
    except JobError as error:
        findings.append(CheckResult(f"model {settings.model}", False, "not usable", str(error)))
        preset = resolve_or_none(settings)
        if preset is not None:
            return Diagnosis((*findings, *before_download(preset)))
    else:
        if isinstance(model.preset, EditorPreset):
            return Diagnosis((*findings, *examine(model, settings, device)))
        findings += [*_files(model, settings), *_memory(model, settings, device)]
    findings += [*check_positions(), *check_zero_cond_t(), *check_refinement(device)]
    return Diagnosis(tuple(findings))


def _libraries() -> Iterator[CheckResult]:
    """Installed versions against the ranges this package declares."""
    yield CheckResult("python", True, platform.python_version())
    try:
        declared = [Requirement(line) for line in importlib.metadata.requires("refine-ops") or []]
    except importlib.metadata.PackageNotFoundError:
        declared = []
        yield CheckResult("refine-ops", True, "run from source: version ranges are not checked")
    ranges = {requirement.name: requirement.specifier for requirement in declared if requirement.marker is None}
    for name in _LIBRARIES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield CheckResult(name, False, "missing", f"pip install '{name}{ranges.get(name, '')}'")
            continue
        fits = name not in ranges or ranges[name].contains(version, prereleases=True)
        yield CheckResult(name, fits, version, "" if fits else f"pip install '{name}{ranges[name]}'")


def _device(device: torch.device) -> Iterator[CheckResult]:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            yield CheckResult("device", False, "no CUDA device", "install a CUDA build of torch, or use --device cpu")
            return
        free, total = torch.cuda.mem_get_info(device)
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        yield CheckResult("device", True, f"{name}, compute capability {capability[0]}.{capability[1]}")
        yield CheckResult("device memory", True, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    else:
        yield CheckResult("device", True, f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")


def _files(model: ResolvedModel, settings: ModelSettings) -> Iterator[CheckResult]:
    yield CheckResult(f"model {settings.model}", True, str(model.folder))
    for key, value in fingerprint_model(model, settings).items():
        if key.startswith(("weights.", "lora.")):
            yield CheckResult(key, True, value)
    flag = model.preset.zero_cond_t
    yield CheckResult("zero_cond_t", True, "as the checkpoint's config says" if flag is None else f"set to {flag}")


def _memory(model: ResolvedModel, settings: ModelSettings, device: torch.device) -> Iterator[CheckResult]:
    """Whether the weights fit, taking the files to be bf16."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return
    size = sum(path.stat().st_size for path in model.folder.glob("*/*.safetensors"))
    wanted = size * _ROOM * (2 if model_dtype(settings, device) == torch.float32 else 1)
    free = torch.cuda.mem_get_info(device)[0]
    yield CheckResult(
        "room for the model",
        free >= wanted,
        f"{wanted / 2**30:.1f} GiB wanted, {free / 2**30:.1f} GiB free",
        "" if free >= wanted else "use a larger device, or free memory that other processes hold",
    )
