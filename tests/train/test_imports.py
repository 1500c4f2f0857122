"""Lean GPU images have neither Prefect nor boto3: training must not import them."""

import subprocess
import sys


def test_a_training_rank_imports_neither_prefect_nor_boto3() -> None:
    code = (
        "import sys, refine_ops.train.worker, refine_ops.train.run, refine_ops.registry; "
        "print(sorted({'prefect', 'boto3', 'botocore', 'flows', 'jpegio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
