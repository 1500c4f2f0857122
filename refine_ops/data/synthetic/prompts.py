"""Instructions for synthetic samples: what the mark is, where it is, and whether a reference shows it."""

import numpy as np

_THINGS = {
    "text": ("text", "lettering", "words", "label", "title", "inscription"),
    "numbers": ("numbers", "digits", "price", "date", "serial number"),
    "logo": ("logo", "emblem", "brand mark", "badge"),
    "icon": ("icon", "symbol", "pictogram", "sign"),
    "barcode": ("barcode", "code", "label"),
    "photo": ("details", "object", "texture", "face", "surface", "part"),
    "thin": ("lines", "pattern", "drawing", "structure", "grid"),
}
_PLAIN = (
    "Refine the {thing} in the masked region.",
    "Restore the details of the {thing}.",
    "Make the {thing} in the marked area sharp and legible.",
    "Fix the broken {thing}.",
    "Repair the {thing} inside the mask, keep everything else.",
    "Refine the details of the {thing} in the marked region.",
)
_WITH_REFERENCE = (
    "Refine the {thing} in the masked region using the reference image.",
    "Restore the {thing} so that it matches the reference.",
    "Repair the {thing} in the marked area as shown in Picture 2.",
    "Make the {thing} look like the one in the reference image.",
)


def all_prompts() -> list[str]:
    """Every prompt there is, in a fixed order (the tiny tokenizer is trained on them)."""
    things = sorted({thing for group in _THINGS.values() for thing in group})
    return [template.format(thing=thing) for template in _PLAIN + _WITH_REFERENCE for thing in things]


def prompt_for(family: str, with_reference: bool, rng: np.random.Generator) -> str:
    """One instruction for a mark of `family`."""
    things = _THINGS[family]
    templates = _WITH_REFERENCE if with_reference else _PLAIN
    thing = things[int(rng.integers(len(things)))]
    return templates[int(rng.integers(len(templates)))].format(thing=thing)
