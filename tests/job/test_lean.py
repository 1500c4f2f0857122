"""GPU images are lean: what runs on them imports without Prefect, boto3 and the JPEG library."""

import subprocess
import sys

import pytest

BLOCK = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import {module}
"""


pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "module",
    ["refine_ops.job.rank.worker", "refine_ops.model.refiner", "refine_ops.train.worker", "refine_ops.job.launch"],
)
def test_it_imports_without_what_lean_images_lack(module: str) -> None:
    code = BLOCK.format(blocked=["prefect", "boto3", "botocore", "jpegio"], module=module)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1500:]


def test_planning_and_reports_import_without_torch() -> None:
    code = BLOCK.format(blocked=["torch", "diffusers", "transformers"], module="refine_ops.report.build")
    code += "import refine_ops.job.launch, refine_ops.job.planning.canary, refine_ops.image.write\n"
    code += "import refine_ops.model.source, refine_ops.model.fingerprint"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1500:]
