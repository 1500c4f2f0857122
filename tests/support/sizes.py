"""How much of a test that samples is done: all of it, or less in `python -m tests quick`."""

import os

QUICK = os.environ.get("REFINE_OPS_TESTS") == "quick"


def size(full: int, quick: int) -> int:
    """Examples, cases or repeats: `quick` of them where every second counts."""
    return quick if QUICK else full
