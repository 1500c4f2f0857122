"""What a run's pixels depend on, and how many ranks make them on this machine."""

import logging
import platform
import subprocess
import sys

from refine_ops.config import ModelSettings, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.job.ranks import count_gpus, ranks_here
from refine_ops.job.run_folder import fingerprint_parts
from refine_ops.judge.judge import open_judge
from refine_ops.model.fingerprint import fingerprint_model, pinned_adapters
from refine_ops.model.presets import PRESETS, TRANSFER
from refine_ops.model.presets.editors import said_of_licence
from refine_ops.model.source import resolve_model

logger = logging.getLogger(__name__)

_ADD_ON_EACH = "import torch; [torch.ones(1, device=i).add(1).item() for i in range(torch.cuda.device_count())]"
_ANSWER_S = 120.0
"""How long a device may take to add one and one, libraries' import included."""


def resolve_adapters(settings: RefineSettings) -> RefineSettings:
    """The settings with `pinned_adapters`: every node fetches a version into its own cache, and checks its hash."""
    if not settings.model.adapters:
        return settings
    model = settings.model.model_copy(update={"adapters": pinned_adapters(settings.model)})
    return settings.model_copy(update={"model": model})


def parts_of(settings: RefineSettings) -> dict[str, str]:
    """What the run's pixels depend on: the settings, the weights and the gate they name, and versions.

    A non-commercial licence of the weights is named in the log, and is in what is returned.

    Raises:
        JobError: files are missing, settings impossible, or nobody has accepted such a licence.
    """
    model = resolve_model(settings.model)
    if told := said_of_licence(model.preset, model.folder, settings.model):
        logger.warning(told)
    weights = fingerprint_model(model, settings.model)
    judge = open_judge(settings, rules_only=True)
    return fingerprint_parts(settings, weights) | (judge.fingerprint if judge else {})


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
