"""What a run's pixels depend on, and how many ranks make them on this machine."""

import logging
import platform
import subprocess
import sys
from pathlib import Path

from refine_ops import adapters
from refine_ops.config import ModelSettings, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.job.ranks import count_gpus, ranks_here
from refine_ops.job.run_folder import fingerprint_parts
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.presets import PRESETS, TRANSFER
from refine_ops.model.source import resolve_model

logger = logging.getLogger(__name__)

_ADD_ON_EACH = "import torch; [torch.ones(1, device=i).add(1).item() for i in range(torch.cuda.device_count())]"
_ANSWER_S = 120.0
"""How long a device may take to add one and one, libraries' import included."""


def resolve_adapters(settings: RefineSettings) -> RefineSettings:
    """Registry names such as `current` become the versions they stand for now, so that a run keeps one adapter; every
    node fetches a version into its own cache, and checks its hash.

    A library that is not the one an adapter was trained with is named in the log.

    Raises:
        JobError: an adapter was trained on another base model, unless `allow_other_base` is set.
    """
    model = settings.model
    if not model.adapters or model.registry is None:
        return settings
    base = fingerprint_model(resolve_model(model.model_copy(update={"adapters": ()})), model)
    names = []
    for name in adapters.in_force(model.adapters, model.registry):
        if Path(name).exists():
            names.append(name)
            continue
        card = adapters.show(model.registry, name)
        _refuse_other_base(card, base, model)
        for difference in adapters.drift(card.base, base):
            logger.warning("adapter %s: %s", card.version, difference)
        names.append(card.version)
    return settings.model_copy(update={"model": model.model_copy(update={"adapters": tuple(names)})})


def _refuse_other_base(card: adapters.AdapterCard, base: dict[str, str], model: ModelSettings) -> None:
    weights = {name: digest for name, digest in card.base.items() if name.startswith("weights.")}
    other = [line.partition(":")[0].removeprefix("weights.") for line in adapters.drift(weights, base)]
    if other and not model.allow_other_base:
        raise JobError(
            f"adapter {card.version} was trained on another base model than {model.model!r} (other files in: "
            f"{', '.join(other)}); use its own base, or --set refine.model.allow_other_base=true"
        )


def parts_of(settings: RefineSettings) -> dict[str, str]:
    """What the run's pixels depend on: the settings, the weights they name, and versions."""
    return fingerprint_parts(settings, fingerprint_model(resolve_model(settings.model), settings.model))


def processes_for(config: RefineBatchConfig) -> int:
    """Ranks on this node: as set, else one per GPU, else one."""
    return ranks_here(config.worker.processes, config.refine.model.device)


def require_gpu(model: ModelSettings) -> None:
    """A machine that has lost its GPUs, or never had one, must not refine on its processor for weeks, unasked.

    Raises:
        JobError: the preset is one for GPUs, the device is left to the machine, and it has none.
    """
    if _for_gpus(model) and not count_gpus():
        raise JobError(
            f"model {model.model!r} needs a GPU and torch finds none on {platform.node()}: look at nvidia-smi and at "
            "`refine-ops doctor`. On the processor it would take minutes per region; if that is meant: "
            "--set refine.model.device=cpu"
        )


def examine_gpu(model: ModelSettings) -> None:
    """After a rank's death: is it the item, or the machine?

    Raises:
        JobError: a GPU that was there does not answer any more.
    """
    if not _for_gpus(model):
        return
    command = [sys.executable, "-c", _ADD_ON_EACH]
    try:
        found = count_gpus() and subprocess.run(command, check=False, timeout=_ANSWER_S).returncode == 0
    except subprocess.TimeoutExpired:
        found = False
    if not found:
        raise JobError(
            f"a GPU of {platform.node()} does not answer any more: restart the machine or use another one, then run "
            "the same command again. No item is blamed for it."
        )


def _for_gpus(model: ModelSettings) -> bool:
    return model.device == "auto" and model.model in PRESETS.keys() - {"tiny", TRANSFER}
