"""Adapters under version: immutable files with cards, and a `current` pointer that moves atomically.

Layout of a registry (local folder or `s3://` prefix):

    versions/<version>/pytorch_lora_weights.safetensors   the adapter, in diffusers' format
    versions/<version>/card.json                          written last: a version without a card does not exist
    versions/<version>/gate.json                          its calibrated gate, where one was fitted; never replaced
    pointer/00000007.json                                 one file per promotion or rollback; the highest is current

The pointer is a sequence of files created only if absent, so two promoters never overwrite each other's decision on
any store that honours conditional writes, and the history of what was current when is kept for free.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from refine_ops import storage
from refine_ops.config import cache_folder
from refine_ops.errors import ItemError, JobError

WEIGHTS_NAME: Final = "pytorch_lora_weights.safetensors"
CURRENT: Final = "current"
PROMOTED: Final = "promoted"
"""As `CURRENT`, and nothing at all before the first promotion."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_CARD_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """What is known about one version.

    `base` fingerprints what the adapter was trained on and with (weights' hashes, library versions), `data` and `code`
    the samples and this package, `settings` the training configuration, `metrics` the held-out figures.
    """

    version: str
    sha256: str
    created_at: float
    base: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move of the pointer. `parent` is the index of the promotion that this one builds on (None: the first)."""

    index: int
    version: str
    parent: int | None
    reason: str
    at: float
    token: str


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """A local safetensors file whose SHA-256 was checked against its card."""

    file: Path
    version: str
    sha256: str


def publish(
    registry: str,
    weights: bytes,
    *,
    label: str = "adapter",
    base: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    note: str = "",
) -> AdapterCard:
    """Store an adapter as version `<label>-<first 10 digits of its SHA-256>`; equal bytes give the stored version back.

    Raises:
        JobError: the label is not a plain name, or the registry cannot be written.
    """
    digest = storage.sha256(weights)
    version = _checked_name(f"{label}-{digest[:10]}")
    card_uri = _card_uri(registry, version)
    if storage.exists(card_uri):
        return show(registry, version)
    card = AdapterCard(
        version=version,
        sha256=digest,
        created_at=time.time(),
        base=dict(base or {}),
        data=dict(data or {}),
        code=dict(code or {}),
        settings=dict(settings or {}),
        metrics=dict(metrics or {}),
        note=note,
    )
    storage.write(_weights_uri(registry, version), weights, only_if_absent=True)
    try:
        storage.write(card_uri, _dump(asdict(card)), only_if_absent=True)
    except ItemError:  # another publisher of the same bytes was faster; its card stands
        return show(registry, version)
    return card


def versions(registry: str) -> list[AdapterCard]:
    """All versions, oldest first."""
    cards = [_read_card(uri) for uri in storage.list_files(storage.join(registry, "versions"), "card.json")]
    return sorted(cards, key=lambda card: (card.created_at, card.version))


def show(registry: str, name: str) -> AdapterCard:
    """The card of a version, or of the current one.

    Raises:
        JobError: no such version, or nothing was promoted yet.
    """
    version = name
    if name == CURRENT:
        promotion = current(registry)
        if promotion is None:
            raise JobError(f"{registry}: no adapter was promoted yet; promote one, or name a version")
        version = promotion.version
    try:
        return _read_card(_card_uri(registry, _checked_name(version)))
    except storage.Missing as e:
        known = ", ".join(card.version for card in versions(registry)) or "none"
        raise JobError(f"{registry}: no adapter version {version!r}; it holds: {known}") from e


def current(registry: str) -> Promotion | None:
    """The latest promotion, or None before the first."""
    uris = _pointer_uris(registry)
    return _read_promotion(uris[-1]) if uris else None


def in_force(names: Sequence[str], registry: str | None) -> tuple[str, ...]:
    """Names of adapters with `promoted` as what it is now: `current`, or none before the first promotion."""
    if PROMOTED not in names:
        return tuple(names)
    if registry is None:
        raise JobError(f"adapter {PROMOTED!r} is what a registry says; set `registry` too")
    now = () if current(registry) is None else (CURRENT,)
    return tuple(known for name in names for known in (now if name == PROMOTED else (name,)))


def rolled_back(registry: str) -> frozenset[str]:
    """Versions that somebody took back. They stay in the registry; no schedule promotes one again."""
    moves = history(registry)
    return frozenset(before.version for before, move in pairwise(moves) if move.parent != before.index)


def history(registry: str) -> list[Promotion]:
    """Every promotion and rollback, oldest first."""
    return [_read_promotion(uri) for uri in _pointer_uris(registry)]


def promote(registry: str, version: str, reason: str = "", *, expected: int | None = -1) -> Promotion:
    """Make `version` the current one.

    Args:
        expected: Index of the promotion the decision was based on (None: there was none). -1 means whatever is
            current now.

    Raises:
        JobError: no such version, or somebody else moved the pointer since `expected`.
    """
    show(registry, version)
    now = current(registry)
    found = None if now is None else now.index
    if expected not in (-1, found):
        raise JobError(
            f"{registry}: the pointer moved from promotion {expected} to {found} while {version} was evaluated; "
            "evaluate it again against the new current adapter"
        )
    return _move(registry, version, found, reason)


def rollback(registry: str, reason: str = "") -> Promotion:
    """Make current what was current before; again, and it goes one further back.

    Raises:
        JobError: there is nothing before the current adapter, or somebody else moved the pointer meanwhile.
    """
    now = current(registry)
    if now is None or now.parent is None:
        raise JobError(f"{registry}: nothing to roll back to; no adapter was current before this one")
    before = _read_promotion(_pointer_uri(registry, now.parent))
    return _move(registry, before.version, before.parent, reason or f"rollback from {now.version}", after=now.index)


def resolve(name: str, registry: str) -> ResolvedAdapter:
    """The local file of `current` or a version; adapters on S3 are fetched once into the cache folder.

    Raises:
        JobError: no such version, or the file's SHA-256 is not its card's.
    """
    card = show(registry, name)
    uri = _weights_uri(registry, card.version)
    file = cache_folder() / "adapters" / f"{card.sha256}.safetensors" if storage.is_s3(uri) else Path(uri)
    try:
        data = file.read_bytes() if file.exists() else storage.read(uri)
    except ItemError as e:
        raise JobError(f"{registry}: adapter {card.version} cannot be read: {e}") from e
    if storage.sha256(data) != card.sha256:
        raise JobError(
            f"{file}: SHA-256 differs from the card of {card.version}; the file was changed, publish it again"
        )
    if not file.exists():
        storage.write(str(file), data)
    return ResolvedAdapter(file, card.version, card.sha256)


def add_gate(registry: str, version: str, gate: bytes) -> bytes:
    """Keep a version's calibrated gate beside it, for good; returns what is there now, which may be an earlier one.

    Raises:
        JobError: no such version, or the registry cannot be written.
    """
    show(registry, version)
    if (known := read_gate(registry, version)) is None:
        try:
            storage.write(_gate_uri(registry, version), gate, only_if_absent=True)
        except ItemError as e:
            known = read_gate(registry, version)
            if known is None:
                raise JobError(f"{registry}: the gate of {version} cannot be written: {e}") from e
    return gate if known is None else known


def read_gate(registry: str, version: str) -> bytes | None:
    """The gate file of a version; None where none was fitted.

    Raises:
        JobError: it is there and cannot be read.
    """
    try:
        return storage.read(_gate_uri(registry, version), _MAX_CARD_BYTES)
    except storage.Missing:
        return None
    except ItemError as e:
        raise JobError(f"{registry}: the gate of {version} cannot be read: {e}") from e


def drift(trained: Mapping[str, str], used: Mapping[str, str]) -> list[str]:
    """Every difference between two fingerprints over the keys both have: `torch: trained with 2.11, used with 2.14`."""
    return [
        f"{key}: trained with {trained[key]}, used with {used[key]}"
        for key in sorted(trained.keys() & used.keys())
        if trained[key] != used[key]
    ]


def _move(registry: str, version: str, parent: int | None, reason: str, after: int | None = None) -> Promotion:
    """Write the next pointer file; `after` defaults to `parent` (a promotion), a rollback gives the current index."""
    last = parent if after is None else after
    index = 1 if last is None else last + 1
    promotion = Promotion(index, version, parent, reason, time.time(), uuid.uuid4().hex)
    try:
        _create(_pointer_uri(registry, index), _dump(asdict(promotion)))
    except ItemError as e:
        raise JobError(
            f"{registry}: somebody else moved the pointer at the same time; look at it and decide again"
        ) from e
    return promotion


def _create(uri: str, data: bytes) -> None:
    """Write a new file; of several writers at once exactly one succeeds, the others get `ItemError`.

    Locally through a hard link, which fails where the name exists: checking first and renaming then would let two pass.
    """
    if storage.is_s3(uri):
        storage.write(uri, data, only_if_absent=True)
        return
    temporary = storage.join(storage.folder_of(uri), f".tmp-{uuid.uuid4().hex}")
    storage.write(temporary, data)
    try:
        os.link(temporary, uri)
    except FileExistsError as e:
        raise ItemError("output.conflict", f"{uri}: already exists") from e
    finally:
        storage.delete(temporary)


def _checked_name(version: str) -> str:
    if not _NAME.fullmatch(version) or version in (CURRENT, PROMOTED):
        raise JobError(f"{version!r} is no adapter version; expected letters, digits, '.', '_' and '-'")
    return version


def _card_uri(registry: str, version: str) -> str:
    return storage.join(registry, "versions", version, "card.json")


def _weights_uri(registry: str, version: str) -> str:
    return storage.join(registry, "versions", version, WEIGHTS_NAME)


def _gate_uri(registry: str, version: str) -> str:
    return storage.join(registry, "versions", _checked_name(version), "gate.json")


def _pointer_uri(registry: str, index: int) -> str:
    return storage.join(registry, "pointer", f"{index:08d}.json")


def _pointer_uris(registry: str) -> list[str]:
    return sorted(storage.list_files(storage.join(registry, "pointer"), ".json"))


def _read_card(uri: str) -> AdapterCard:
    return AdapterCard(**_load(uri))


def _read_promotion(uri: str) -> Promotion:
    return Promotion(**_load(uri))


def _load(uri: str) -> dict[str, Any]:
    try:
        values = json.loads(storage.read(uri, _MAX_CARD_BYTES))
    except ValueError as e:
        raise JobError(f"{uri}: not JSON ({e}); the registry was edited by hand, restore the file") from e
    if not isinstance(values, dict):
        raise JobError(f"{uri}: expected a JSON object; the registry was edited by hand, restore the file")
    return values


def _dump(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, sort_keys=True, allow_nan=False).encode()
