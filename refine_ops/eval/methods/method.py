"""What is evaluated, and how its outputs are told apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from refine_ops import identity
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput
from refine_ops.records import Alignment


@dataclass(frozen=True, slots=True, eq=False)
class MethodOutput:
    """An image file of the input's size; `alignment` is what `align` found in the patch, where the method has one."""

    data: bytes
    alignment: Alignment | None = None


class Method(Protocol):
    """Makes outputs."""

    @property
    def digest(self) -> str:
        """Identifies everything that determines its pixels; outputs of another digest are never reused."""

    def run(self, inputs: Sequence[LoadedInput]) -> list[MethodOutput | ItemError]:
        """One output per input of one case, or why there is none."""


def output_or_error(make: Callable[[LoadedInput], MethodOutput], loaded: LoadedInput) -> MethodOutput | ItemError:
    """What `make` gives, or why it gives nothing."""
    try:
        return make(loaded)
    except ItemError as e:
        return e


def digest_of(values: Mapping[str, Any]) -> str:
    """16 hex digits of what JSON can hold."""
    return identity.digest(values)[:16]
