"""The ranks of a launch: how many a node has."""

import pytest
import torch

from refine_ops.job.ranks import count_gpus, ranks_here


@pytest.mark.processes
def test_gpus_are_counted_as_torch_counts_them() -> None:
    assert count_gpus() == torch.cuda.device_count()


def test_a_node_has_as_many_ranks_as_wanted_and_one_on_the_cpu() -> None:
    assert ranks_here(3, "auto") == 3
    assert ranks_here(None, "cpu") == 1
