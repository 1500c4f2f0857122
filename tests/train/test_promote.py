"""The gate on real adapters: a broken one and one only slightly worse stay out, a better one becomes current."""

import pytest
import torch

from refine_ops import adapters as registry
from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.model.source import resolve_model
from refine_ops.train.adapter import adapter_bytes
from refine_ops.train.config import GateSettings, LoraSettings, TrainLoraConfig
from refine_ops.train.denoiser import Denoiser, trainable
from refine_ops.train.promotion.promote import Judged, judge
from refine_ops.train.samples.encoders import load_trainee

CASES = 4
BASE = ModelSettings(model="tiny", device="cpu")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first cases of RefineEval-mini, two inputs each."""
    out = tmp_path_factory.mktemp("cases")
    everything = BuildCasesConfig(out=str(out), keep=1, scribbles=2, seeds=1)
    build_cases(everything)
    return str(out)


@pytest.fixture(scope="module")
def adapters() -> dict[str, bytes]:
    """Adapter files by how much noise they add to the attention's output."""
    trainee = load_trainee(resolve_model(BASE), torch.device("cpu"), torch.float32)
    model = Denoiser(trainee.transformer, LoraSettings(rank=2, alpha=2), seed=0, checkpointing="none", compiled=False)
    files = {}
    for name, strength in (("good", 0.0), ("slightly worse", 3.0), ("broken", 30.0)):
        generator = torch.Generator().manual_seed(3)
        weights = {
            n: p.detach()
            if ".lora_A." in n
            else strength * torch.randn(p.shape, generator=generator) / p.shape[0] ** 0.5
            for n, p in trainable(model).items()
        }
        files[name] = adapter_bytes(weights, rank=2, alpha=2, trained_as={}, fingerprint={}, dtype=torch.float32)
    return files


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, cases: str) -> TrainLoraConfig:
    root = tmp_path_factory.mktemp("gate")
    return TrainLoraConfig(
        dataset="unused",
        out=str(root / "run"),
        registry=str(root / "registry"),
        model=BASE,
        gate=GateSettings(cases=cases, limit=CASES, min_cases=CASES),
    )


def _publish(config: TrainLoraConfig, data: bytes) -> str:
    assert config.registry is not None
    return registry.publish(config.registry, data).version


def _judge(config: TrainLoraConfig, data: bytes) -> Judged:
    return judge(config, _publish(config, data))


@pytest.fixture(scope="module")
def good(config: TrainLoraConfig, adapters: dict[str, bytes]) -> str:
    """A current adapter that leaves the base as it is."""
    assert config.registry is not None
    return registry.promote(config.registry, _publish(config, adapters["good"])).version


@pytest.mark.parametrize("bad", ["broken", "slightly worse"])
def test_bad_adapters_are_kept_out(config: TrainLoraConfig, adapters: dict[str, bytes], good: str, bad: str) -> None:
    judged = _judge(config, adapters[bad])
    assert (judged.incumbent, judged.promoted) == (good, False)
    assert judged.decision.verdict == "keep"
    result = judged.decision.findings[0].result
    assert result is not None
    assert result.n_cases == CASES
    assert result.difference < (-2.0 if bad == "broken" else 0.0)
    if bad == "slightly worse":
        assert result.difference > -2.0
    assert config.registry is not None
    assert registry.show(config.registry, "current").version == good


def test_a_better_one_becomes_current_and_says_why(config: TrainLoraConfig, adapters: dict[str, bytes]) -> None:
    assert config.registry is not None
    other = config.model_copy(update={"registry": config.registry + "-2"})
    worse = _publish(other, adapters["slightly worse"])
    registry.promote(config.registry + "-2", worse)
    judged = _judge(other, adapters["good"])
    assert judged.promoted, judged.decision.markdown
    current = registry.current(config.registry + "-2")
    assert current is not None
    assert current.version == judged.version
    assert "psnr_mask: gain +" in current.reason
    assert judge(other, judged.version).notes == (f"{judged.version} is current already",)


def test_a_metric_that_cannot_be_measured_stops_with_the_remedy(
    config: TrainLoraConfig, adapters: dict[str, bytes], good: str
) -> None:
    for name, message in (("lpips_alex", "psnr_mask' needs no weights"), ("nonsense", "no metric of refine-eval")):
        other = config.model_copy(update={"gate": config.gate.model_copy(update={"metric": name})})
        with pytest.raises(JobError, match=message):
            _judge(other, adapters["broken"])
