"""What determines the pixels, as strings that can be compared and named when they differ."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from refine_ops import adapters, storage
from refine_ops.config import ModelSettings, cache_folder
from refine_ops.errors import JobError
from refine_ops.identity import NETWORK_PACKAGES, TRANSFER_PACKAGES, versions
from refine_ops.model.presets import TRANSFER, EditorPreset
from refine_ops.model.presets.editors import licence_of
from refine_ops.model.source import ResolvedModel, resolve_model

logger = logging.getLogger(__name__)

_HASH_THREADS: Final = 8
_REMEMBERED_FROM: Final = 1 << 26
"""Bytes of a file from which on reading it takes longer than looking for a note of it."""
_NO_PIXELS: Final = {"source", "loras", "licence", "weights_bytes"}
"""Fields of a preset that no pixel depends on, or whose files are hashed."""
_SUFFIXES: Final = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})


def fingerprint_model(model: ResolvedModel, settings: ModelSettings) -> dict[str, str]:
    """Name -> value for every component's files, every LoRA, the preset in force, settings and library versions.

    Paths do not enter: a copy of the same model elsewhere has the same fingerprint. Nothing is loaded, so a process
    without a GPU can compute it.
    """
    if settings.model == TRANSFER:
        return {"model": TRANSFER} | {f"version.{name}": found for name, found in versions(TRANSFER_PACKAGES).items()}
    values = {f"weights.{part}": hash_folder(model.folder / part) for part in model.components}
    for index, (path, scale) in enumerate(model.loras):
        values[f"lora.{index}"] = f"{_hash_file(path)} x {scale}"
    preset = dataclasses.asdict(model.preset)
    values |= {f"preset.{name}": json.dumps(preset[name]) for name in preset.keys() - _NO_PIXELS}
    if isinstance(model.preset, EditorPreset):
        licence = licence_of(model.preset, model.folder)
        values["licence"] = licence.name if licence else "nobody said"
        values["model_index"] = _hash_file(model.folder / "model_index.json")
        values["row"] = _plain(dataclasses.asdict(model.preset.row))
    for name in ("negative_prompt", "target_ring", "speed", "compile", "fp8", "dtype", "batch_size", "first"):
        values[f"settings.{name}"] = json.dumps(getattr(settings, name))
    return values | {f"version.{name}": found for name, found in versions(NETWORK_PACKAGES).items()}


def _plain(row: dict[str, object]) -> str:
    """JSON of what a row of the table says; equal for equal rows."""
    return json.dumps({key: sorted(v) if isinstance(v, frozenset) else v for key, v in row.items()}, sort_keys=True)


def pinned_adapters(settings: ModelSettings) -> tuple[str, ...]:
    """The adapters, registry names such as `current` as the versions they stand for now, so that a run keeps one.

    A library that is not the one an adapter was trained with is named in the log.

    Raises:
        JobError: an adapter was trained on another base model, unless `allow_other_base` is set.
    """
    if not settings.adapters or settings.registry is None:
        return settings.adapters
    base = fingerprint_model(resolve_model(settings.model_copy(update={"adapters": ()})), settings)
    names = []
    for name in adapters.in_force(settings.adapters, settings.registry):
        if Path(name).exists():
            names.append(name)
            continue
        card = adapters.show(settings.registry, name)
        _refuse_other_base(card, base, settings)
        for difference in adapters.drift(card.base, base):
            logger.warning("adapter %s: %s", card.version, difference)
        names.append(card.version)
    return tuple(names)


def _refuse_other_base(card: adapters.AdapterCard, base: dict[str, str], settings: ModelSettings) -> None:
    weights = {name: digest for name, digest in card.base.items() if name.startswith("weights.")}
    other = [line.partition(":")[0].removeprefix("weights.") for line in adapters.drift(weights, base)]
    if other and not settings.allow_other_base:
        raise JobError(
            f"adapter {card.version} was trained on another base model than {settings.model!r} (other files in: "
            f"{', '.join(other)}); use its own base, or set the model's allow_other_base"
        )


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's weights, configurations and vocabularies."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        hashes = list(pool.map(_hash_file, files))
    lines = "\n".join(
        f"{path.relative_to(folder).as_posix()} {digest}" for path, digest in zip(files, hashes, strict=True)
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def _hash_file(path: Path) -> str:
    """SHA-256 of a file; where it lies in the hub's cache under its SHA-256, the name is trusted and nothing read.

    What was read once on this machine is remembered for a large file, as long as its size, time and number on the disk
    are the same: a node's sixteen lanes would read 58 GB each.
    """
    blob = path.resolve().name
    if path.is_symlink() and len(blob) == 64 and all(digit in "0123456789abcdef" for digit in blob):
        return blob
    status = path.stat()
    if status.st_size < _REMEMBERED_FROM:
        return _read_hash(path)
    seen = f"{path.resolve()}\n{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_dev}"
    note = cache_folder() / "hashes" / hashlib.sha256(seen.encode()).hexdigest()
    with contextlib.suppress(OSError):
        return note.read_text()
    with _alone(note.with_suffix(".lock")):
        with contextlib.suppress(OSError):  # another lane has read it meanwhile
            return note.read_text()
        digest = _read_hash(path)
        with contextlib.suppress(JobError):  # a machine without a home reads anew each time
            storage.write(str(note), digest.encode())
        return digest


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time: lanes that begin together wait for the first one's hash. Ends with its
    process, however that ends; a machine without a home, or without such locks, does without."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield


def _read_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
