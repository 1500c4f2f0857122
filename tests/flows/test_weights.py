"""What a run's pixels depend on: files by their hashes, never where they lie or what runs them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import refine_ops
from flows.steps.weights import parts_of, resolve_adapters
from refine_ops import adapters
from refine_ops.config import RefineSettings
from refine_ops.errors import JobError
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model


def settings(**model: object) -> RefineSettings:
    return RefineSettings.model_validate({"model": model})


def an_adapter(registry: Path, **base: str) -> str:
    weights = save({"a": np.zeros(3, np.float32)}, metadata={"made": ",".join(base.values())})
    version = adapters.publish(str(registry), weights, base=base).version
    adapters.promote(str(registry), version)
    return version


def test_paths_devices_and_releases_are_no_part_of_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = resolve_model(settings().model).folder
    for name in ("here", "there"):
        shutil.copytree(tiny, tmp_path / name)
    an_adapter(tmp_path / "registry")
    here = parts_of(
        resolve_adapters(
            settings(model=str(tmp_path / "here"), adapters=["current"], registry=str(tmp_path / "registry"))
        )
    )
    (tmp_path / "registry").rename(tmp_path / "moved")
    monkeypatch.setattr(refine_ops, "__version__", "99.0")
    there = settings(
        model=str(tmp_path / "there"), adapters=["current"], registry=str(tmp_path / "moved"), device="cpu"
    )
    assert parts_of(resolve_adapters(there)) == here
    assert str(tmp_path) not in str(here)
    assert here["pixel_version"] == str(refine_ops.PIXEL_VERSION)
    assert parts_of(settings(model=str(tmp_path / "here"))) != here, "an adapter is part of it, by its hash"


def test_a_promotion_travels_as_a_version_not_as_this_machines_file(tmp_path: Path) -> None:
    version = an_adapter(tmp_path)
    given = resolve_adapters(settings(adapters=["current"], registry=str(tmp_path)))
    assert given.model.adapters == (version,)
    assert resolve_adapters(given) == given


def test_an_adapter_of_another_base_model_is_refused_unless_allowed(tmp_path: Path) -> None:
    base = fingerprint_model(resolve_model(settings().model), settings().model)
    an_adapter(tmp_path, **base)
    registry = {"adapters": ["current"], "registry": str(tmp_path)}
    resolve_adapters(settings(**registry))
    an_adapter(tmp_path, **{**base, "weights.transformer": "0" * 64, "version.torch": "1.0"})
    with pytest.raises(JobError, match=r"another base model than 'tiny' \(other files in: transformer\)"):
        resolve_adapters(settings(**registry))
    resolve_adapters(settings(**registry, allow_other_base=True))
