"""Style and degradation families by name, so that a benchmark can be on things a model never saw."""

from collections.abc import Collection

from refine_ops.data.stages.damages import DAMAGES
from refine_ops.errors import JobError


def check_exclude(exclude: Collection[str], styles: Collection[str]) -> None:
    """Refuse names that exclude nothing: a typing error would let the held-out family in.

    Raises:
        JobError: a name that is neither a degradation nor one of the source's `styles`.
    """
    known = sorted({*DAMAGES, *styles})
    unknown = sorted(set(exclude) - set(known))
    if unknown:
        raise JobError(f"exclude: no family is called {', '.join(unknown)}; there are {', '.join(known)}")
