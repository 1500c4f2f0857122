"""GPU images are lean: what they run imports without Prefect, boto3 and the JPEG library; planning without torch."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

ON_GPUS = (
    *("refine_ops.job.rank.worker", "refine_ops.job.launch", "refine_ops.adapters"),
    *("refine_ops.model.refiner", "refine_ops.model.doctor.doctor"),
    *("refine_ops.train.worker", "refine_ops.train.run"),
)
WITHOUT_TORCH = (
    *("refine_ops.job.launch", "refine_ops.job.planning.canary", "refine_ops.report.build", "refine_ops.image.write"),
    *("refine_ops.model.source", "refine_ops.model.fingerprint", "refine_ops.job.rank.worker"),
)


@pytest.mark.parametrize(
    ("modules", "missing"),
    [
        (ON_GPUS, ("prefect", "flows", "boto3", "botocore", "jpegio")),
        (WITHOUT_TORCH, ("torch", "diffusers", "transformers")),
    ],
    ids=["GPU", "planning"],
)
def test_it_imports_without_what_its_machines_lack(modules: tuple[str, ...], missing: tuple[str, ...]) -> None:
    """One process for all: a module that imports what is missing fails whichever came before it."""
    code = f"import sys, {', '.join(modules)}\nassert not [name for name in {missing!r} if sys.modules.get(name)]\n"
    if "torch" not in missing:  # scipy takes what lies under torch's name for a module, and asks it for its tensors
        code = f"import sys\nfor name in {missing!r}:\n    sys.modules[name] = None\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1500:]
