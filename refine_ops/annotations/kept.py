"""What a manifest says that other tools have no word for: an exported file carries it, and an import takes it back.

Whoever edits the file can edit this too; a row made of it is checked as every manifest row is.
"""

from dataclasses import dataclass
from typing import Any, Final

from refine_ops.annotations.files import listing, text

KEY: Final = "refine_ops"
"""Under which it stands in the files of other tools."""


@dataclass(frozen=True, slots=True)
class KeptItem:
    """Of an item; empty: not said."""

    item_id: str = ""
    output: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class KeptRegion:
    """Of a region; empty or None: not said."""

    region_id: str = ""
    prompt: str = ""
    seed: Any = None
    paste: Any = None
    references: tuple[str, ...] = ()


NO_ITEM: Final = KeptItem()
NO_REGION: Final = KeptRegion()


def kept_under(value: Any, key: str = KEY) -> dict[str, Any]:
    """The object under a key, or an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def kept_item(ours: dict[str, Any]) -> KeptItem:
    """Raises `ItemError` (`entry.invalid`) for what is no text."""
    return KeptItem(*(text(ours.get(name), name) for name in ("item_id", "output", "category")))


def kept_region(ours: dict[str, Any]) -> KeptRegion:
    """Raises as `kept_item`."""
    references = tuple(text(one, "references") for one in listing(ours.get("references"), "references"))
    region_id, prompt = text(ours.get("region_id"), "region_id"), text(ours.get("prompt"), "prompt")
    return KeptRegion(region_id, prompt, ours.get("seed"), ours.get("paste"), references)
