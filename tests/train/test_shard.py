"""Split weights train like whole ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.sharded_gradients import one_step

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).with_name("sharded_gradients.py")


def test_two_ranks_with_split_weights_take_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "step.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    subprocess.run([*command, str(out)], check=True, capture_output=True, timeout=240)
    split, complete = load_file(out), one_step(sharded=False)
    assert split.keys() == complete.keys()
    for name, value in complete.items():
        torch.testing.assert_close(split[name], value, atol=1e-5, rtol=1e-4)
