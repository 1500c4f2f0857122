"""What a cell of a table means, whichever tool wrote it: names, whole numbers, boxes.

A spreadsheet or a data frame turns 7 into 7.0 where a column has a gap, a list into its text, and an id into a number;
each is read as what it was. Text stays text: `"007"`, `"NA"` and `"2026-05-01"` are what they say.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

MAX_COORDINATE: Final = 1 << 20
_EXACT_FLOAT: Final = 1 << 53
"""Up to here a float is the whole number it was made from."""
_WHOLE_TEXT: Final = re.compile(r"\s*([0-9]{1,19})(\.0*)?\s*")  # 2^63 has 19 digits
_NUMBER_TEXT: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_LIST_TEXT: Final = re.compile(r"\s*[\[(]?([^\[\]()]*)[\])]?\s*")
_TURNS_TEXT: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")


def forging_character(text: str) -> str | None:
    """The first character that could make one line look like two, or text run backwards, by its name; None if none.

    No-break spaces, joiners and other characters that merely cannot be seen are harmless in a name: screenshots and
    file names in many scripts have them.
    """
    for c in "" if text.isprintable() else text:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or _TURNS_TEXT.match(c):
            return f"U+{ord(c):04X} {unicodedata.name(c, 'control character')}"
    return None


def text_of(value: Any) -> Any:
    """A number as the text it was before a tool took it for a number: 7 and 7.0 are '7'; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    whole = whole_of(value)
    return repr(value) if whole is None else str(whole)


def whole_of(value: Any) -> int | None:
    """The whole number that `value` is: 7, 7.0, '7' or '7.0'; None if it is none, or too large to be exact."""
    if isinstance(value, str) and (digits := _WHOLE_TEXT.fullmatch(value)):
        return int(digits[1])
    if isinstance(value, float) and abs(value) <= _EXACT_FLOAT and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def numbers_of(value: Any) -> list[float]:
    """The numbers of a list or of its text (`1,2`, `[1, 2]`, `(1 2)`), or none at all.

    None at all where one of them is not a number within `MAX_COORDINATE`.
    """
    if isinstance(value, str):
        inner = _LIST_TEXT.fullmatch(value)
        parts = re.split(r"\s*[,;]\s*|\s+", inner[1].strip()) if inner else []
        if not all(map(_NUMBER_TEXT.fullmatch, parts)):
            return []
        value = [float(part) for part in parts]
    if not isinstance(value, Sequence):
        return []
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) <= MAX_COORDINATE for v in value):
        return []
    return list(value)


def pixels_of(value: Any, count: int = 4) -> tuple[int, ...] | None:
    """`count` whole numbers, as of a box; None if `value` does not hold just those."""
    found = numbers_of(value)
    if len(found) != count or any(n != int(n) for n in found):
        return None
    return tuple(int(n) for n in found)
