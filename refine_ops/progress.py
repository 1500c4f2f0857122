"""How far something is: what long work tells whoever started it."""

from collections.abc import Callable

OnProgress = Callable[[int, int | None], None]
"""Called now and then with how many are done, and of how many (None: not known)."""


def no_progress(done: int, total: int | None) -> None:
    """Shows nothing."""
