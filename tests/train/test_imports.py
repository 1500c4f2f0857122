"""Lean GPU images have neither Prefect nor boto3 nor the JPEG library: training must run without them."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes


def test_training_imports_without_what_lean_images_lack() -> None:
    code = (
        "import sys\n"
        "for name in ('prefect', 'boto3', 'botocore', 'jpegio'):\n"
        "    sys.modules[name] = None\n"
        "import refine_ops.train.worker, refine_ops.train.run, refine_ops.adapters\n"
        "print('flows' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
