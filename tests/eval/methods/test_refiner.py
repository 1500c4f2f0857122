"""This package's refiner as a method: what of its settings decides what an output is."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from refine_ops.config import ImageLimits, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import load_cases, load_input
from refine_ops.eval.config import RefinerMethod, without_focus
from refine_ops.eval.methods.method import MethodOutput
from refine_ops.eval.methods.open import open_method
from refine_ops.records import Conditioning, Patch
from tests.support.pixels import KnownRefiner


class _LeavesAsItIs(KnownRefiner):
    focus_pixels = 256 * 256
    """The case's whole image at its own size: nothing is resampled."""

    def _patch(self, item: Conditioning) -> Patch:
        return Patch(item.image.astype(np.float32) / np.float32(255), np.ones(item.mask.shape, bool), 1)


@pytest.mark.parametrize(("write", "kind"), [({}, MethodOutput), ({"allow_unchanged": False}, ItemError)])
def test_an_unchanged_region_is_a_result_unless_the_settings_say_otherwise(
    write: dict[str, bool], kind: type, frozen: str
) -> None:
    settings = without_focus(RefineSettings.model_validate({"write": write}))
    config = RefinerMethod(name="ours", refine=settings)
    method = open_method(config, torch.device("cpu"), ImageLimits())
    method._refiner = _LeavesAsItIs()  # type: ignore[attr-defined]
    cases = load_cases(frozen)
    item = next(i for i in cases.inputs if i.input.endswith(".png"))
    (output,) = method.run([load_input(cases, item, ImageLimits())])
    assert isinstance(output, kind)


@pytest.mark.parametrize("judged", [{"candidates": 2}, {"stop": "best"}, {"read_text": True}])
def test_what_only_a_judge_reads_is_refused(judged: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"leave out {next(iter(judged))}"):
        RefinerMethod.model_validate({"name": "ours", "refine": judged})
