"""Hostile text made harmless for people: what cannot be seen, or turns what follows around, is spelled out."""

import re

_UNSEEN = re.compile("[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def visible(text: str) -> str:
    """Control, zero-width and direction characters as `⟨U+202E⟩`; escaping for HTML or Markdown is another matter."""
    return _UNSEEN.sub(lambda m: f"⟨U+{ord(m.group()):04X}⟩", str(text))


def markdown(text: str) -> str:
    """`text` as literal Markdown: HTML escaped and every character that could start a construct backslashed."""
    plain = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~:@/])", r"\\\1", plain)
