"""A signer whose certificate and key the environment names, as an operator's does."""

from collections.abc import Iterator

import pytest

from refine_ops.provenance.sign import open_signer
from tests.support.certificates import Identity, make_identity


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Who signed the sources."""
    return make_identity(tmp_path_factory.mktemp("camera"), name="Test Camera")


@pytest.fixture
def signing(operator: Identity, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    monkeypatch.setenv("REFINE_C2PA_CERTIFICATE", str(operator.chain))
    monkeypatch.setenv("REFINE_C2PA_KEY", str(operator.key))
    for name in ("REFINE_C2PA_SIGNER", "REFINE_C2PA_TIME_STAMP"):
        monkeypatch.delenv(name, raising=False)
    open_signer.cache_clear()
    yield operator
    open_signer.cache_clear()
