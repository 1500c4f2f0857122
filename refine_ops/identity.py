"""What a folder's contents depend on: recorded when the folder is made, compared whenever it is taken up.

A run, a training and a data set each write their parts beside their work (`run.json`, `train.json`, `build.json`), as
names and values, so that a refusal can name exactly what differs. Paths, devices and numbers of processes are no parts.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from refine_ops import storage
from refine_ops.errors import ItemError, JobError

PIXEL_PACKAGES: Final = (
    *("torch", "diffusers", "transformers", "peft"),
    *("numpy", "opencv-python-headless", "scikit-image", "pillow", "pyjpegio", "isal"),
)
"""Packages whose version may change a pixel or a published byte of a run."""
NETWORK_PACKAGES: Final = ("torch", "diffusers", "transformers", "torchvision", "pillow")
"""Those that decide what a model makes of its inputs."""
TRANSFER_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow")
"""Those that decide what is made of a reference without a model."""
ENCODING_PACKAGES: Final = ("torch", "diffusers", "transformers", "pillow")
"""Those that decide what the encoders of a training make of a sample."""
TRAINING_PACKAGES: Final = ("peft", "accelerate")
"""Those that decide a training's steps beside `NETWORK_PACKAGES`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One part that is not the same: its name, its recorded value and its value now; None where there is none."""

    name: str
    there: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.there} there, {self.now} now"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of every package, `absent` where it is not."""
    return {name: _version(name) for name in packages}


def digest(parts: Any) -> str:
    """SHA-256, in hexadecimal, of what JSON can say; the order of names does not enter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def flat(parts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parts as one level of dotted names, values as JSON."""
    rows: dict[str, str] = {}
    for key, value in parts.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
    return rows


def differences(there: Any, now: Any, name: str = "") -> list[Difference]:
    """What differs between two sets of parts, nested or flat, in the order of names."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = sorted(there.keys() | now.keys())
        return [d for key in keys for d in differences(there.get(key), now.get(key), f"{name}.{key}".lstrip("."))]
    return [] if there == now else [Difference(name, there, now)]


def recorded(uri: str) -> dict[str, Any] | None:
    """The record of a folder, or None where the folder is new.

    Raises:
        JobError: it cannot be read, or is no JSON object.
    """
    try:
        record = json.loads(storage.read(uri)) if storage.exists(uri) else None
    except (ItemError, ValueError) as e:
        raise JobError(f"{uri}: {e}") from e
    if record is not None and not isinstance(record, dict):
        raise JobError(f"{uri}: expected a JSON object, got {type(record).__name__}; use another folder")
    return record


def record_once(uri: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write `record` unless one is there; returns the one that is there then.

    Of two that make a folder at once one record stays, and the other finds out whether it is its own.
    """
    found = recorded(uri)
    if found is None:
        data = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True).encode()
        with contextlib.suppress(ItemError):  # another start was quicker
            storage.write(uri, data, only_if_absent=True)
        found = recorded(uri)
    if found is None:
        raise JobError(f"{uri}: cannot be written; use another folder")
    return found


def compare(record: Mapping[str, Any], mine: Mapping[str, Any], entries: Sequence[str]) -> list[Difference]:
    """What differs in the named entries of two records; an entry's own name is left out of the parts' names."""
    return [d for entry in entries for d in differences(record.get(entry), mine.get(entry))]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
