"""Shared by the evaluation's tests: the ImageNet trunks, a batch, the frozen case set."""

from pathlib import Path

import pytest
import torch

from refine_ops.eval.metrics.metric import CaseBatch
from tests.support.case_batch import make_batch
from tests.support.trunk_weights import write_trunk

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder with alexnet.safetensors and vgg16.safetensors."""
    folder = tmp_path_factory.mktemp("trunks")
    for name in ("alexnet", "vgg16"):
        write_trunk(name, folder)
    return str(folder)


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder with alexnet.safetensors alone: VGG16's metrics are missing."""
    return str(write_trunk("alexnet", tmp_path_factory.mktemp("alexnet")).parent)


@pytest.fixture
def batch() -> CaseBatch:
    return make_batch()


@pytest.fixture(scope="session")
def frozen() -> str:
    """Four cases of RefineEval-mini with three inputs each, as files: one JPEG case, three PNG."""
    return str(Path(__file__).parent / "frozen")
