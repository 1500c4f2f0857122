"""The two ways things go wrong: a job stops, or an item is recorded and the run goes on."""

from typing import Final

EXIT_OK: Final = 0
EXIT_BAD_INPUT: Final = 1
"""What was read or made was looked at and found wanting: bad rows, a canary or a promotion that said no, too many dead
items, an alarm."""
EXIT_JOB_ERROR: Final = 2
"""It could not go on: settings, permissions, disk, a device, another process in the folder. The message names the
remedy; after it the same command goes on."""
EXIT_DRAINED: Final = 75
"""Stopped cleanly with work left, by SIGTERM or a deadline (`EX_TEMPFAIL`): the same command goes on."""


class RefineError(Exception):
    """Root of every error this project raises on purpose.

    The message names the item or setting, what was expected, what came, and the remedy.
    """


class JobError(RefineError):
    """The whole job cannot go on; the command line prints the message and exits with 2."""


class Unacceptable(JobError):
    """What was made was looked at and found wanting; the command line exits with 1."""


class ItemError(RefineError):
    """One item cannot be refined; it is dead-lettered with `reason` and the run goes on.

    Args:
        reason: Short stable code, `noun.adjective` (`image.truncated`, `mask.empty`); reports group by it.
        message: For people: what was expected, what came, what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Missing(ItemError):
    """The URI names nothing; `hint` says what was probably meant."""

    def __init__(self, uri: str, hint: str = "check the path") -> None:
        super().__init__("file.missing", f"{uri}: no such file; {hint}")
