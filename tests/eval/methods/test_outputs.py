"""Outputs that need no model."""

import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.eval.cases.case_set import load_cases, load_input
from refine_ops.eval.config import TRANSFERRED
from refine_ops.eval.methods.outputs import ControlOutputs
from refine_ops.image.read import decode


def test_transfer_takes_the_reference_where_it_fits_and_else_the_input_as_it_is(frozen: str) -> None:
    cases = load_cases(frozen)
    inputs = [load_input(cases, item, ImageLimits()) for item in cases.inputs]
    outputs = ControlOutputs(TRANSFERRED.control).run(inputs)
    better = untouched = 0
    for loaded, output in zip(inputs, outputs, strict=True):
        if output.data == loaded.data:
            untouched += 1
            continue
        assert loaded.reference is not None
        made = decode(output.data, name="made", limits=ImageLimits()).rgb
        errors = [
            np.square(p[loaded.mask] - loaded.target[loaded.mask].astype(float)).mean() for p in (made, loaded.image)
        ]
        better += errors[0] < errors[1]
    free = sum(loaded.reference is None for loaded in inputs)
    assert better >= 3
    assert free <= untouched < len(inputs)
