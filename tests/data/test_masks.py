"""M lies inside the dilated object and keeps its limits, for any object."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refine_ops.data.config import MaskSettings
from refine_ops.data.stages.masks import dilated, draw_region, inner_box
from refine_ops.errors import ItemError
from refine_ops.records import Mask


@st.composite
def objects(draw: st.DrawFn) -> Mask:
    """Blobs, rings and letters-like unions of ellipses and rectangles, possibly touching the border."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    height, width = draw(st.integers(24, 120)), draw(st.integers(24, 120))
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(3, width)), int(rng.integers(3, height)))
        if rng.random() < 0.5:
            cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            cv2.rectangle(canvas, centre, (centre[0] + axes[0], centre[1] + axes[1]), 1, -1)
    return canvas.astype(bool)


@settings(max_examples=300, deadline=None)
@given(objects(), st.integers(0, 1 << 30))
def test_every_kind_of_region_lies_inside_the_dilated_object(shape: Mask, seed: int) -> None:
    assume(shape.sum() > 60)
    options = MaskSettings(scribble=1, box=1, object=1)
    try:
        kind, mask = draw_region(shape, options, np.random.default_rng(seed))
    except ItemError as e:
        assert e.reason in ("scribble.limits", "box.limits")  # noqa: PT017 (either outcome is right)
        return
    allowed = dilated(shape)
    assert mask.any()
    assert not (mask & ~allowed).any()
    if kind != "object":
        assert options.least_area <= mask.sum() / allowed.sum() <= options.most_area
    if kind == "box":
        ys, xs = np.nonzero(mask)
        assert mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
    again = draw_region(shape, options, np.random.default_rng(seed))
    np.testing.assert_array_equal(again[1], mask)


def test_kinds_come_in_the_proportions_asked_for() -> None:
    shape = np.zeros((80, 80), bool)
    shape[20:60, 15:65] = True
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        try:
            drawn.append(draw_region(shape, MaskSettings(scribble=0.5, box=0.25, object=0.25), rng)[0])
        except ItemError:
            drawn.append("none")
    assert abs(drawn.count("object") / 400 - 0.25) < 0.07
    assert drawn.count("none") < 40


def test_an_object_that_holds_no_box_is_refused_with_the_figures() -> None:
    shape = np.zeros((100, 100), np.uint8)
    cv2.line(shape, (0, 0), (99, 99), 1, 1)
    with pytest.raises(ItemError, match=r"largest of 400 inside it covers 0\.\d+") as caught:
        inner_box(shape.astype(bool), MaskSettings(), np.random.default_rng(0))
    assert caught.value.reason == "box.limits"


def test_settings_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="all 0"):
        MaskSettings(scribble=0, box=0, object=0)
    with pytest.raises(ValueError, match="must be below"):
        MaskSettings(least_area=0.5, most_area=0.5)
