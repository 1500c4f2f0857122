"""Promotion with real adapters: a broken one and one only slightly worse stay out, a better one becomes current."""

from pathlib import Path

import pytest
import torch

from refine_ops import adapters as registry
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import JobError
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.eval.gates.config import CalibrationSettings
from refine_ops.eval.methods.refiner import OurRefiner
from refine_ops.judge.gate import SHIPPED
from refine_ops.model.source import resolve_model
from refine_ops.train.adapter import adapter_bytes
from refine_ops.train.config import LoraSettings, PromotionSettings, TrainLoraConfig
from refine_ops.train.denoiser import Denoiser, trainable
from refine_ops.train.promotion.promote import PromotionResult, decide_promotion
from refine_ops.train.promotion.regate import Standing, compared
from refine_ops.train.samples.encoders import load_trainee

pytestmark = pytest.mark.long

CASES = 4
BASE = ModelSettings(model="tiny", device="cpu", reference="as_given")


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
    root = tmp_path_factory.mktemp("promotion")
    return TrainLoraConfig(
        dataset="unused",
        out=str(root / "run"),
        registry=str(root / "registry"),
        model=BASE,
        promotion=PromotionSettings(cases=cases, limit=CASES, min_cases=CASES),
    )


def _publish(config: TrainLoraConfig, data: bytes) -> str:
    assert config.registry is not None
    return registry.publish(config.registry, data).version


def _decide(config: TrainLoraConfig, data: bytes) -> PromotionResult:
    return decide_promotion(config, _publish(config, data))


@pytest.fixture(scope="module")
def good(config: TrainLoraConfig, adapters: dict[str, bytes]) -> str:
    """A current adapter that leaves the base as it is."""
    assert config.registry is not None
    return registry.promote(config.registry, _publish(config, adapters["good"])).version


@pytest.mark.parametrize("bad", ["broken", "slightly worse"])
def test_bad_adapters_are_kept_out(config: TrainLoraConfig, adapters: dict[str, bytes], good: str, bad: str) -> None:
    decided = _decide(config, adapters[bad])
    assert (decided.incumbent, decided.promoted) == (good, False)
    assert decided.decision.verdict == "keep"
    assert [a.name for a in decided.decision.answers] == ["psnr_mask", "raw_de00", "raw_shift_px"]
    gain = decided.decision.answers[0].gain
    assert gain is not None
    assert gain.result.n_cases == CASES
    assert gain.mean < (-2.0 if bad == "broken" else 0.0)
    if bad == "slightly worse":
        assert gain.mean > -2.0
    assert config.registry is not None
    assert registry.show(config.registry, "current").version == good


def test_a_better_one_becomes_current_and_says_why(config: TrainLoraConfig, adapters: dict[str, bytes]) -> None:
    assert config.registry is not None
    other = config.model_copy(update={"registry": config.registry + "-2"})
    worse = _publish(other, adapters["slightly worse"])
    registry.promote(config.registry + "-2", worse)
    decided = _decide(other, adapters["good"])
    assert decided.promoted, decided.decision.markdown
    current = registry.current(config.registry + "-2")
    assert current is not None
    assert current.version == decided.version
    assert "psnr_mask: gain +" in current.reason
    assert decide_promotion(other, decided.version).notes == (f"{decided.version} is current already",)


@pytest.mark.slow
def test_a_version_whose_gate_publishes_less_is_not_promoted(
    config: TrainLoraConfig, adapters: dict[str, bytes], cases: str
) -> None:
    """Few cases support no gate: that keeps nothing out where none was in force, and everything where one was.

    Last run: 2026-11-27, on the commit that added it, `pytest -m slow tests/train/test_promote.py`: passed in 90 CPU-s.
    """
    place = f"{config.registry}-4"
    fitted = CalibrationSettings(cases=cases, per_case=1, lessons=0)
    promotion = config.promotion.model_copy(update={"calibrate": fitted})
    other = config.model_copy(update={"registry": place, "out": config.out + "-4", "promotion": promotion})
    worse = _publish(other, adapters["slightly worse"])
    registry.promote(place, worse)
    registry.add_gate(place, worse, SHIPPED["tiny"].read_bytes())
    refused = _decide(other, adapters["good"])
    assert (refused.decision.verdict, refused.promoted) == ("promote", False)
    assert "for this one none can be fitted" in refused.notes[-1]
    current = registry.current(place)
    assert current is not None
    assert current.version == worse
    (Path(place) / "versions" / worse / "gate.json").unlink()
    allowed = _decide(other, adapters["good"])
    assert allowed.promoted
    assert allowed.notes[-1].startswith("no gate, as before")


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [(None, None, True), (None, 0.1, True), (0.4, None, False), (0.4, 0.39, False), (0.4, 0.4, True), (0.4, 0.6, True)],
)
def test_what_a_gate_publishes_decides(before: float | None, after: float | None, accepted: bool) -> None:
    known = [None if share is None else Standing(share, "cases") for share in (before, after)]
    assert compared(known[0], known[1]).accepted == accepted


def test_what_was_taken_back_is_never_promoted_again_by_a_schedule(
    config: TrainLoraConfig, adapters: dict[str, bytes]
) -> None:
    assert config.registry is not None
    other = config.model_copy(update={"registry": config.registry + "-3"})
    old, new = _publish(other, adapters["slightly worse"]), _publish(other, adapters["good"])
    for version in (old, new):
        registry.promote(config.registry + "-3", version)
    registry.rollback(config.registry + "-3", "bad in production")
    decided = decide_promotion(other, new)
    assert (decided.promoted, decided.incumbent) == (False, old)
    assert "was taken back once" in decided.notes[0]
    assert registry.show(config.registry + "-3", "current").version == old


def test_an_adapter_is_known_by_its_content_wherever_it_lies(adapters: dict[str, bytes], tmp_path: Path) -> None:
    digests = []
    for place, name in (("a", "broken"), ("b", "broken"), ("c", "good")):
        file = tmp_path / place / "adapter.safetensors"
        file.parent.mkdir()
        file.write_bytes(adapters[name])
        settings = RefineSettings(model=BASE.model_copy(update={"adapters": (str(file),)}))
        digests.append(OurRefiner(settings, torch.device("cpu")).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_metric_that_cannot_be_measured_stops_with_the_remedy(
    config: TrainLoraConfig, adapters: dict[str, bytes], good: str
) -> None:
    for name, message in (("lpips_alex", "psnr_mask' needs no weights"), ("nonsense", "no metric 'nonsense'")):
        other = config.model_copy(update={"promotion": config.promotion.model_copy(update={"metric": name})})
        with pytest.raises(JobError, match=message):
            _decide(other, adapters["broken"])
