"""Run a training on this node: check, launch the ranks, read what came of it."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import refine_ops
from refine_ops import identity, storage
from refine_ops.adapters import WEIGHTS_NAME
from refine_ops.errors import JobError
from refine_ops.identity import TRAINING_PACKAGES, versions
from refine_ops.job.elastic import run_elastic
from refine_ops.job.ranks import ranks_here
from refine_ops.model.fingerprint import fingerprint_model, pinned_adapters
from refine_ops.model.source import resolve_model
from refine_ops.train import run_folder
from refine_ops.train.config import FINGERPRINT, TrainLoraConfig
from refine_ops.train.metrics_log import read_metrics
from refine_ops.train.samples.dataset import TrainingSample, dataset_digest, read_samples
from refine_ops.train.worker import FAILURE, RESULT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training. `metrics` are the last validation's figures, with `base_` those before the first step."""

    adapter: Path
    sha256: str
    steps: int
    metrics: dict[str, float]
    fingerprint: dict[str, str]
    data: dict[str, str]


def train(config: TrainLoraConfig, on_tick: Callable[[], None] | None = None) -> TrainResult:
    """Train to the last step, or go on where the run folder left off; a finished run is only read.

    Args:
        on_tick: Called about twice a second while the ranks run.

    Raises:
        JobError: settings or data do not allow it, the loss diverged, a rank died, or the run was stopped.
    """
    config = placed(config)
    pinned_adapters(config.model)  # refuses one of another base; which contents they have is in the fingerprint
    fingerprint = training_fingerprint(config)
    samples = read_samples(config.dataset, config.exclude)
    if not samples:
        why = "`exclude` leaves no samples; name fewer families" if config.exclude else "holds no samples"
        raise JobError(f"{config.dataset}: {why}; its README.md says what was rejected")
    run = run_folder.open_run(config, fingerprint, dataset_digest(config.dataset))
    if (finished := _result(run, fingerprint, config.run.steps)) is not None:
        return finished
    (run / FAILURE).unlink(missing_ok=True)
    _log_samples(samples)
    job = run / "job.json"
    values = {
        "config": config.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "samples": [asdict(sample) for sample in samples],  # ranks that read the set themselves might read another
    }
    storage.write(str(job), json.dumps(values).encode())
    ranks = ranks_here(config.run.processes, config.model.device)
    code = run_elastic("refine_ops.train.worker", [str(job)], processes=ranks, log=run / "train.log", on_tick=on_tick)
    finished = _result(run, fingerprint, config.run.steps)
    if finished is None:
        raise JobError(_failure(run, code))
    return finished


def _log_samples(samples: Sequence[TrainingSample]) -> None:
    count = Counter(sample.split for sample in samples)
    references = sum(sample.reference is not None for sample in samples)
    logger.info(
        "%d samples to train, %d to validate, %d with reference", count["train"], count["validation"], references
    )


def placed(config: TrainLoraConfig) -> TrainLoraConfig:
    """`{fingerprint}` in `out` as that of the data, the settings and the weights: a schedule with one `out` trains once
    for each, and where nothing is new it trains nothing."""
    if FINGERPRINT not in config.out:
        return config
    parts = [run_folder.training_settings(config), training_fingerprint(config), dataset_digest(config.dataset)]
    return config.model_copy(update={"out": config.out.replace(FINGERPRINT, identity.digest(parts)[:12])})


def training_fingerprint(config: TrainLoraConfig) -> dict[str, str]:
    """What the result depends on besides the settings: weights of the base, library versions, this package."""
    base = fingerprint_model(resolve_model(config.model), config.model)
    kept = {name: value for name, value in base.items() if not name.startswith("settings.")}
    libraries = {f"version.{name}": found for name, found in versions(TRAINING_PACKAGES).items()}
    return kept | libraries | {"version.refine_ops": refine_ops.__version__}


def _result(run: Path, fingerprint: dict[str, str], steps: int) -> TrainResult | None:
    path = run / RESULT
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    if found["steps"] < steps:
        return None
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "validation_loss" in row]
    measured: dict[str, float] = {}
    for prefix, row in (("base_", rows[0]), ("", rows[-1])) if rows else ():
        measured |= {prefix + name: value for name, value in row.items() if name != "step" and value is not None}
    return TrainResult(
        run / "adapter" / WEIGHTS_NAME, found["sha256"], found["steps"], measured, fingerprint, found["data"]
    )


def _failure(run: Path, code: int) -> str:
    path = run / FAILURE
    if path.exists():
        return str(json.loads(path.read_text())["message"])
    return f"a training rank died (exit code {code}); the end of {run / 'train.log'} says why. Run it again to go on"
