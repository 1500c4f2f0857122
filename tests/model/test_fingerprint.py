"""Fingerprints of models: by what files hold, read once on a machine."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refine_ops.model import fingerprint
from refine_ops.model.fingerprint import hash_folder


def test_a_large_file_is_read_once_on_a_machine_and_again_when_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "_REMEMBERED_FROM", 1000)
    weights = tmp_path / "model" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"a" * 2000)
    (weights.parent / "config.json").write_text("{}")
    read: list[str] = []
    real = fingerprint._read_hash

    def counted(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(fingerprint, "_read_hash", counted)
    first = hash_folder(weights.parent)
    assert hash_folder(weights.parent) == first
    assert sorted(read) == ["config.json", "config.json", "weights.safetensors"]
    weights.write_bytes(b"b" * 2000)
    os.utime(weights, ns=(1, 1))
    other = hash_folder(weights.parent)
    assert other != first
    weights.write_bytes(b"a" * 2000)
    assert hash_folder(weights.parent) == first, "the notes are of files, not of names"


def test_lanes_that_begin_together_read_a_large_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "_REMEMBERED_FROM", 1000)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"a" * 2000)
    read: list[Path] = []

    def slowly(path: Path) -> str:
        read.append(path)
        time.sleep(0.3)
        return "its hash"

    monkeypatch.setattr(fingerprint, "_read_hash", slowly)
    with ThreadPoolExecutor(8) as lanes:  # each opens the lock for itself, as a process does
        assert set(lanes.map(fingerprint._hash_file, [weights] * 8)) == {"its hash"}
    assert read == [weights]
