"""Which pixels a shape marks: those whose centres lie in it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import points_in_poly

from refine_ops.annotations.images import read_header
from refine_ops.annotations.shapes import (
    Outline,
    Rectangle,
    ellipse,
    filled,
    overlap,
    ring,
    simplest,
    turned_rectangle,
    upright_shape,
)
from refine_ops.errors import ItemError
from refine_ops.image.source import upright
from tests.support.annotated import LIMITS, photo

SIZE = (40, 30)
COORDINATE = st.floats(-10, 50, allow_nan=False)


def square(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


@settings(max_examples=25)
@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=12))
def test_an_outline_marks_the_pixels_whose_centres_lie_in_it(points: list[tuple[float, float]]) -> None:
    corners = np.array(points)
    ys, xs = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] + 0.5
    centres = np.stack([xs.ravel(), ys.ravel()], axis=1)
    # scikit-image decides centres on the line by its own rule: those apart, it is the second opinion.
    near = np.zeros(len(centres), bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = max(float(((b - a) ** 2).sum()), 1e-12)
        along = np.clip(((centres - a) @ (b - a)) / length, 0, 1)[:, None]
        near |= np.linalg.norm(centres - (a + along * (b - a)), axis=1) < 1e-6
    expected = points_in_poly(centres, corners)
    found = filled(Outline((corners,)), SIZE).ravel()
    np.testing.assert_array_equal(found[~near], expected[~near])


@settings(max_examples=25)
@given(st.floats(0, 20), st.floats(0, 20), st.floats(0.6, 20), st.floats(0.6, 10))
def test_a_box_and_the_same_box_drawn_as_an_outline_mark_the_same(x: float, y: float, w: float, h: float) -> None:
    x, y, w, h = (round(v * 4) / 4 + 0.1 for v in (x, y, w, h))  # no edge runs through a centre
    x0, y0, x1, y1 = Rectangle(x, y, x + w, y + h).pixels()
    mask = filled(Outline((square(x, y, x + w, y + h),)), SIZE)
    expected = np.zeros_like(mask)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(mask, expected)


def test_holes() -> None:
    rings = (square(5, 5, 25, 25), square(10, 10, 20, 20))
    assert filled(Outline(rings, holes=True), SIZE).sum() == 400 - 100
    assert filled(Outline(rings), SIZE).sum() == 400
    assert overlap(Outline(rings), SIZE)
    assert not overlap(Outline((square(0, 0, 4, 4), square(6, 6, 9, 9))), SIZE)
    # One ring that runs in to the hole and back, as exporters write what has holes into formats without them.
    keyhole = np.concatenate([square(5, 5, 25, 25), [[5, 5]], square(10, 10, 20, 20)[::-1], [[10, 20]]])
    assert filled(Outline((keyhole,)), SIZE).sum() == 400 - 100


def test_an_upright_rectangle_in_any_order_is_a_box_and_nothing_else_is() -> None:
    corners = square(3, 4, 9, 8)
    for points in (corners, corners[::-1], np.roll(corners, 1, axis=0), np.concatenate([corners, corners[:1]])):
        found = simplest(Outline((points,)))
        assert isinstance(found, Rectangle)
        assert found.pixels() == (3, 4, 9, 8)
    for other in (corners[[0, 2, 1, 3]], corners + np.array([[0, 0], [0, 1], [0, 0], [0, 0]]), corners[:3]):
        assert isinstance(simplest(Outline((np.asarray(other, float),))), Outline)


def test_a_quarter_turn_is_exact_and_any_other_keeps_the_area() -> None:
    assert turned_rectangle(10, 5, 6, 2, 90, (10, 5)) == Rectangle(8, 5, 10, 11)
    assert turned_rectangle(10, 5, 6, 2, 360, (10, 5)) == Rectangle(10, 5, 16, 7)
    tilted = turned_rectangle(10, 10, 14, 9, 30, (17, 14.5))
    assert isinstance(tilted, Outline)
    assert filled(tilted, SIZE).sum() == pytest.approx(14 * 9, abs=5)
    # Clockwise as it is seen: the right end of a wide box sinks.
    flat = turned_rectangle(0, 10, 20, 2, 20, (0, 10))
    assert isinstance(flat, Outline)
    assert flat.rings[0][1] == pytest.approx([20 * math.cos(math.radians(20)), 10 + 20 * math.sin(math.radians(20))])


def test_an_ellipse_has_its_area_and_leans_the_way_it_is_turned() -> None:
    mask = filled(ellipse(20, 15, 12, 5, 20), SIZE)
    assert mask.sum() == pytest.approx(math.pi * 12 * 5, rel=0.03)
    assert mask[18, 29]
    assert not mask[11, 29]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_shapes_as_it_turns_pixels(orientation: int, suffix: str, tmp_path) -> None:
    header = read_header(str(photo(tmp_path / f"a{suffix}", SIZE, orientation)), LIMITS)
    assert (header.stored, header.orientation) == (SIZE, orientation)
    outline = Outline((ring([[2.2, 3.1], [20.7, 5.3], [9.4, 22.8]], "ring"),))
    turned = upright_shape(outline, orientation, SIZE)
    assert isinstance(turned, Outline)
    np.testing.assert_array_equal(filled(turned, header.size), upright(filled(outline, SIZE), orientation))
    box = upright_shape(Rectangle(2, 3, 20, 9), orientation, SIZE)
    assert isinstance(box, Rectangle)
    expected = np.zeros((SIZE[1], SIZE[0]), bool)
    expected[3:9, 2:20] = True
    x0, y0, x1, y1 = box.pixels()
    found = np.zeros((header.size[1], header.size[0]), bool)
    found[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(found, upright(expected, orientation))


@pytest.mark.parametrize("bad", [[[0, 0], [1, 1]], [[0, 0], [1], [2, 2]], [[0, 0], [1, math.nan], [2, 2]], "abc", 7])
def test_what_is_no_ring_is_refused(bad: object) -> None:
    with pytest.raises(ItemError):
        ring(bad, "ring")  # type: ignore[arg-type]


def test_an_outline_that_would_take_forever_to_fill_is_refused() -> None:
    comb = np.stack([np.linspace(0, 9000, 100_000), np.tile([0.0, 9000.0], 50_000)], axis=1)
    with pytest.raises(ItemError, match="simplify"):
        filled(Outline((comb,)), (9000, 9000))
