"""One shape of progress callback, for everything that takes long."""

from typing import Protocol


class OnProgress(Protocol):
    """Called now and then with how many are done, of how many (None: not known), and what else there is to say."""

    def __call__(self, done: int, total: int | None = None, detail: str = "") -> None: ...


def no_progress(done: int, total: int | None = None, detail: str = "") -> None:
    """Shows nothing."""
