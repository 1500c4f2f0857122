"""What is evaluated, and how its outputs are told apart."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput


class Method(Protocol):
    """Makes outputs, as image files of the input's size."""

    @property
    def digest(self) -> str:
        """Identifies everything that determines its pixels; outputs of another digest are never reused."""

    def run(self, inputs: Sequence[LoadedInput]) -> list[bytes | ItemError]:
        """One output per input of one case, or why there is none."""


def output_or_error(make: Callable[[LoadedInput], bytes], loaded: LoadedInput) -> bytes | ItemError:
    try:
        return make(loaded)
    except ItemError as e:
        return e


def digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
