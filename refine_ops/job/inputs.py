"""An item's inputs: which files it names, what the stores say of them, and their bytes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from refine_ops import storage
from refine_ops.config import AccessSettings
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
        record.identity = combined(identities)
    return inputs


def identity_of(item: Item, known: Mapping[str, str] | None = None) -> str:
    """What the stores say of all inputs of an item, without reading them: `known` by URI, or asked for now. One that is
    absent counts as the reason why."""
    if known is None:
        known = storage.identities(input_uris(item))
    return combined({uri: known[uri] for uri in input_uris(item)})


def combined(identities: dict[str, str]) -> str:
    text = json.dumps(sorted(identities.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
