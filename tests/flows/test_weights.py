"""What a run's pixels depend on: files by their hashes, never where they lie or what runs them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import refine_ops
from flows.refine_batch import refuse_tiny
from flows.steps.weights import examine_gpu, parts_of, require_gpu, resolve_adapters
from refine_ops import adapters
from refine_ops.config import ImageLimits, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.eval.config import RefinerMethod
from refine_ops.eval.methods.open import open_method
from refine_ops.job.ranks import count_gpus
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.run import train


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


def test_promoted_is_none_before_the_first_promotion_and_what_is_current_after_it(tmp_path: Path) -> None:
    given = settings(adapters=["promoted"], registry=str(tmp_path))
    assert resolve_adapters(given).model.adapters == ()
    assert resolve_model(given.model).loras == ()
    version = an_adapter(tmp_path)
    assert resolve_adapters(given).model.adapters == (version,)
    assert len(resolve_model(given.model).loras) == 1
    with pytest.raises(JobError, match="set `registry` too"):
        resolve_model(settings(adapters=["promoted"]).model)


def test_an_adapter_of_another_base_model_is_refused_unless_allowed(tmp_path: Path) -> None:
    base = fingerprint_model(resolve_model(settings().model), settings().model)
    an_adapter(tmp_path, **base)
    registry = {"adapters": ["current"], "registry": str(tmp_path)}
    resolve_adapters(settings(**registry))
    an_adapter(tmp_path, **{**base, "weights.transformer": "0" * 64, "version.torch": "1.0"})
    with pytest.raises(JobError, match=r"another base model than 'tiny' \(other files in: transformer\)"):
        resolve_adapters(settings(**registry))
    resolve_adapters(settings(**registry, allow_other_base=True))
    evaluated = RefinerMethod(name="ours", refine=settings(**registry, device="cpu"))
    with pytest.raises(JobError, match="another base model than 'tiny'"):
        open_method(evaluated, torch.device("cpu"), ImageLimits())
    trained = {"dataset": "none", "out": str(tmp_path / "run"), "model": {"model": "tiny", "device": "cpu", **registry}}
    with pytest.raises(JobError, match="another base model than 'tiny'"):
        train(TrainLoraConfig.model_validate(trained))


@pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")
@pytest.mark.processes
def test_a_preset_for_gpus_is_not_run_on_a_processor_unasked() -> None:
    preset = settings(model="refineanything-2511-lightning-8").model
    with pytest.raises(JobError, match=r"needs a GPU .* --set refine.model.device=cpu"):
        require_gpu(preset)
    with pytest.raises(JobError, match=r"does not answer any more.*No item is blamed"):
        examine_gpu(preset)
    for other in (settings().model, preset.model_copy(update={"device": "cpu"})):
        require_gpu(other)
        examine_gpu(other)


def test_tiny_is_no_model_for_a_deployment() -> None:
    config = RefineBatchConfig(manifest="m.csv")
    refuse_tiny(config, deployed=False)
    with pytest.raises(JobError, match=r"set refine.model.model .* or allow_tiny: true"):
        refuse_tiny(config, deployed=True)
    refuse_tiny(config.model_copy(update={"allow_tiny": True}), deployed=True)
    refuse_tiny(config.model_copy(update={"refine": settings(model="transfer")}), deployed=True)
