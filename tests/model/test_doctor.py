"""The doctor finds what is wrong with this machine and says what to do; a healthy machine passes."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_ops.config import ModelSettings
from refine_ops.model.doctor import doctor, selftest

CPU = torch.device("cpu")


def off(diagnosis: doctor.Diagnosis) -> set[str]:
    assert all(finding.remedy for finding in diagnosis.findings if not finding.ok), "every fault has a remedy"
    return {finding.name for finding in diagnosis.findings if not finding.ok}


def test_a_healthy_machine(checkpoint: Path) -> None:
    diagnosis = doctor.diagnose(ModelSettings(model=str(checkpoint)), CPU)
    assert off(diagnosis) == set()
    assert diagnosis.ok
    found = {finding.name: finding.found for finding in diagnosis.findings}
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert len(found["weights.transformer"]) == 64
    assert json.loads(json.dumps(diagnosis.as_dict()))["ok"] is True


def test_missing_model_and_wrong_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.36.0" if name == "diffusers" else version(name))
    diagnosis = doctor.diagnose(ModelSettings(model="nobody/no-model"), CPU)
    assert off(diagnosis) == {"diffusers", "model nobody/no-model"}
    remedies = {finding.name: finding.remedy for finding in diagnosis.findings}
    assert "pip install 'diffusers" in remedies["diffusers"]
    assert "allow_hub" in remedies["model nobody/no-model"]


def test_wrong_positions_are_detected(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """As a transformers version would that ignores `mm_token_type_ids`."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    compute = Qwen2_5_VLModel.compute_3d_position_ids

    def ignoring(self: Any, *args: Any, **kwargs: Any) -> Any:
        return compute(self, *args, **{**kwargs, "mm_token_type_ids": None})

    monkeypatch.setattr(Qwen2_5_VLModel, "compute_3d_position_ids", ignoring)
    assert off(doctor.diagnose(ModelSettings(model=str(checkpoint)), CPU)) == {"image positions in prompts"}


def test_wrong_zero_cond_t_is_detected(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """As a diffusers version would that applies the flag whatever the config says."""
    seeded = selftest.seeded_transformer
    monkeypatch.setattr(selftest, "seeded_transformer", lambda zero_cond_t: seeded(zero_cond_t=True))
    names = off(doctor.diagnose(ModelSettings(model=str(checkpoint)), CPU))
    assert names == {"zero_cond_t False, diffusers", "zero_cond_t False, fast"}


def test_a_device_that_is_not_there(checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert off(doctor.diagnose(ModelSettings(model=str(checkpoint)), torch.device("cuda"))) == {"device"}
