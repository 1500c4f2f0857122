"""The adapter registry, in a local folder and in a bucket of a real S3 endpoint (moto server)."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from refine_ops import adapters, storage
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import JobError
from refine_ops.judge.gate import SHIPPED, read_gate
from refine_ops.judge.judge import open_judge


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.processes)])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "local":
        return str(tmp_path / "registry")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("endpoint"))
    import boto3

    bucket = f"b{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3", endpoint_url=request.getfixturevalue("endpoint")).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/adapters"


def test_published_versions_are_listed_oldest_first_and_shown_with_their_card(folder: str) -> None:
    first = adapters.publish(folder, b"one", metrics={"gain_db": 1.5}, base={"torch": "2.14"})
    second = adapters.publish(folder, b"two", label="nightly")
    assert [c.version for c in adapters.versions(folder)] == [first.version, second.version]
    shown = adapters.show(folder, first.version)
    assert shown == first
    assert shown.metrics == {"gain_db": 1.5}
    assert second.version.startswith("nightly-")


def test_a_version_is_immutable_and_publishing_equal_bytes_again_changes_nothing(folder: str) -> None:
    first = adapters.publish(folder, b"one", note="first")
    assert adapters.publish(folder, b"one", note="second") == first
    assert len(adapters.versions(folder)) == 1


def test_what_was_taken_back_is_known_and_what_was_promoted_on_it_is_not(folder: str) -> None:
    one, two, three = (adapters.publish(folder, data).version for data in (b"one", b"two", b"three"))
    for version in (one, two):
        adapters.promote(folder, version)
    assert adapters.rolled_back(folder) == frozenset()
    adapters.rollback(folder, "bad in production")
    adapters.promote(folder, three)
    assert adapters.rolled_back(folder) == {two}


def test_a_versions_gate_is_in_force_wherever_it_is_used_and_never_replaced(folder: str) -> None:
    """Asked for by the version's name or as the current one, from a local registry and from one on S3."""
    card = adapters.publish(folder, b"one")
    other = adapters.publish(folder, b"two")
    adapters.promote(folder, card.version)
    gate = SHIPPED["tiny"].read_bytes()
    assert adapters.read_gate(folder, card.version) is None
    assert adapters.add_gate(folder, card.version, gate) == gate
    assert adapters.add_gate(folder, card.version, b"another") == gate
    known = read_gate(SHIPPED["tiny"]).fingerprint
    for name, found in ((card.version, known), ("current", known), (other.version, "fixed rules")):
        model = ModelSettings(model="tiny", adapters=(name,), registry=folder)
        judge = open_judge(RefineSettings(model=model))
        assert judge is not None
        assert judge.fingerprint["gate.model"] == found
    with pytest.raises(JobError, match="no adapter version"):
        adapters.add_gate(folder, "nobody-0123456789", gate)


def test_a_version_without_its_card_does_not_exist(folder: str) -> None:
    card = adapters.publish(folder, b"one")
    storage.delete(storage.join(folder, "versions", card.version, "card.json"))
    assert adapters.versions(folder) == []
    with pytest.raises(JobError, match="no adapter version"):
        adapters.resolve(card.version, folder)


def test_promote_and_rollback_walk_back_through_what_was_current(folder: str) -> None:
    a, b, c = (adapters.publish(folder, data).version for data in (b"a", b"b", b"c"))
    assert adapters.current(folder) is None
    for version in (a, b, c):
        adapters.promote(folder, version, "better")
    assert adapters.show(folder, "current").version == c
    assert adapters.rollback(folder).version == b
    assert adapters.rollback(folder).version == a
    with pytest.raises(JobError, match="nothing to roll back"):
        adapters.rollback(folder)
    assert [p.version for p in adapters.history(folder)] == [a, b, c, b, a]
    adapters.promote(folder, c)
    assert adapters.rollback(folder).version == a


def test_a_decision_made_on_an_older_pointer_is_refused(folder: str) -> None:
    a, b = (adapters.publish(folder, data).version for data in (b"a", b"b"))
    seen = adapters.promote(folder, a).index
    adapters.promote(folder, b)
    with pytest.raises(JobError, match="pointer moved"):
        adapters.promote(folder, a, expected=seen)
    with pytest.raises(JobError, match="pointer moved"):
        adapters.promote(folder, a, expected=None)


def test_of_many_promoters_at_once_exactly_one_wins(folder: str) -> None:
    names = [adapters.publish(folder, bytes([65 + k])).version for k in range(6)]
    gate, won, lost = threading.Barrier(len(names)), [], []

    def run(version: str) -> None:
        gate.wait()
        try:
            won.append(adapters.promote(folder, version, expected=None).version)
        except JobError:
            lost.append(version)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert len(lost) == 5
    assert adapters.show(folder, "current").version == won[0]


def test_resolve_gives_a_local_file_with_the_published_bytes(folder: str) -> None:
    card = adapters.publish(folder, b"weights")
    adapters.promote(folder, card.version)
    resolved = adapters.resolve("current", folder)
    assert resolved.file.read_bytes() == b"weights"
    assert (resolved.version, resolved.sha256) == (card.version, storage.sha256(b"weights"))
    assert adapters.resolve(card.version, folder) == resolved


def test_a_changed_weights_file_is_refused(tmp_path: Path) -> None:
    card = adapters.publish(str(tmp_path), b"weights")
    (tmp_path / "versions" / card.version / adapters.WEIGHTS_NAME).write_bytes(b"other")
    with pytest.raises(JobError, match="SHA-256 differs"):
        adapters.resolve(card.version, str(tmp_path))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", ".hidden"])
def test_names_cannot_leave_the_registry(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match="no adapter version"):
        adapters.resolve(name, str(tmp_path))


def test_a_hand_edited_pointer_is_named(tmp_path: Path) -> None:
    card = adapters.publish(str(tmp_path), b"weights")
    adapters.promote(str(tmp_path), card.version)
    (tmp_path / "pointer" / "00000001.json").write_text(json.dumps([1]))
    with pytest.raises(JobError, match="edited by hand"):
        adapters.current(str(tmp_path))


def test_drift_names_what_differs_and_ignores_what_one_side_lacks() -> None:
    trained = {"transformer": "aaa", "torch": "2.11", "diffusers": "0.42.1"}
    used = {"transformer": "bbb", "torch": "2.11", "peft": "0.21"}
    assert adapters.drift(trained, used) == ["transformer: trained with aaa, used with bbb"]
