"""What a run's pixels depend on, and how many ranks make them on this machine."""

import ctypes.util
import logging
import subprocess
import sys
from pathlib import Path

from refine_ops import adapters
from refine_ops.config import RefineBatchConfig, RefineSettings
from refine_ops.job.run_folder import fingerprint_parts
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model

logger = logging.getLogger(__name__)


def resolve_adapters(settings: RefineSettings) -> RefineSettings:
    """Registry names such as `current` become the files they stand for now, so that a run keeps one adapter.

    A base model or library that is not the one an adapter was trained with is named in the log.
    """
    model = settings.model
    if not model.adapters or model.registry is None:
        return settings
    base = fingerprint_model(resolve_model(model.model_copy(update={"adapters": ()})), model)
    files = []
    for name in model.adapters:
        if Path(name).exists():
            files.append(name)
            continue
        found = adapters.resolve(name, model.registry)
        for difference in adapters.drift(adapters.show(model.registry, found.version).base, base):
            logger.warning("adapter %s: %s", found.version, difference)
        files.append(str(found.file))
    return settings.model_copy(update={"model": model.model_copy(update={"adapters": tuple(files)})})


def parts_of(settings: RefineSettings) -> dict[str, str]:
    """What the run's pixels depend on: the settings, the weights they name, and versions."""
    return fingerprint_parts(settings, fingerprint_model(resolve_model(settings.model), settings.model))


def processes_for(config: RefineBatchConfig) -> int:
    """Ranks on this node: as set, else one per GPU, else one."""
    if config.worker.processes:
        return config.worker.processes
    return 1 if config.refine.model.device == "cpu" else max(1, count_gpus())


def count_gpus() -> int:
    """As torch counts them; it is asked in a process of its own, and only where there is a driver, because importing it
    costs a second and a process that only plans needs nothing else of it."""
    if not any(map(ctypes.util.find_library, ("cuda", "amdhip64"))):
        return 0
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0
