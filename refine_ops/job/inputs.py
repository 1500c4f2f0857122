"""An item's inputs: which files it names, what the stores say of them, and their bytes."""

import hashlib
import json
from dataclasses import dataclass, field

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError
from refine_ops.records import Item


@dataclass(slots=True)
class InputRecord:
    """What is remembered of inputs once their bytes are gone; filled as they are read, so that an item which dies
    half-way still tells what it was given. SHA-256 and size in bytes by URI."""

    hashes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    identity: str = ""


def input_uris(item: Item) -> list[str]:
    """Image, masks and references, each once."""
    named = [item.image, *(uri for r in item.regions for uri in (r.mask, *r.all_references) if uri)]
    return list(dict.fromkeys(named))


def read_inputs(
    item: Item, access: AccessSettings, max_bytes: int, record: InputRecord | None = None
) -> dict[str, bytes]:
    """The bytes of image, masks and references by URI; fills `record`.

    Raises:
        ItemError: an input is missing, unreadable, too large, or not allowed.
    """
    inputs, identities = {}, {}
    for uri in input_uris(item):
        storage.check_access(uri, access)
        inputs[uri], identities[uri] = storage.read_identified(uri, max_bytes)
        if record is not None:
            record.hashes[uri], record.sizes[uri] = storage.sha256(inputs[uri]), len(inputs[uri])
    if record is not None:
        record.identity = _combined(identities)
    return inputs


def identity_of(item: Item) -> str:
    """What the stores say of all inputs of an item, without reading them; absent ones count as 'missing'."""
    return _combined({uri: _identity(uri) for uri in input_uris(item)})


def _combined(identities: dict[str, str]) -> str:
    text = json.dumps(sorted(identities.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _identity(uri: str) -> str:
    try:
        return storage.identity(uri)
    except ItemError as e:
        return e.reason
