"""The training set that the tests of training make."""

from tests.train.conftest import make_dataset

__all__ = ["make_dataset"]
