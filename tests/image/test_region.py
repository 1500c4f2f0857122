"""Regions as masks: a mask that waits keeps every pixel, and no more bytes than its box has bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.image.region import PackedMask, tight_box
from tests.support.sizes import size


@settings(max_examples=size(200, 40), deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.001, 1))
def test_a_packed_mask_is_the_mask_again(height: int, width: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < share
    mask[rng.integers(height), rng.integers(width)] = True
    packed = PackedMask.of(mask)
    assert packed.size == (width, height)
    assert packed.box == tight_box(mask)
    assert np.array_equal(packed.unpacked(), mask)
    x0, y0, x1, y1 = packed.box
    assert packed.bits.nbytes == (y1 - y0) * -(-(x1 - x0) // 8)


def test_a_small_mark_in_a_large_image_waits_in_few_bytes() -> None:
    mask = np.zeros((3000, 4000), np.bool_)
    mask[1000:1040, 2000:2100] = True
    assert PackedMask.of(mask).bits.nbytes == 40 * 13
    assert PackedMask.of(mask).unpacked().sum() == mask.sum()


def test_unpacking_gives_a_mask_of_its_own() -> None:
    packed = PackedMask.of(np.eye(9, dtype=np.bool_))
    packed.unpacked()[:] = False
    assert packed.unpacked().sum() == 9


@pytest.mark.parametrize("mask", [np.ones((1, 1), np.bool_), np.ones((7, 17), np.bool_)])
def test_what_is_marked_whole_is_packed_whole(mask: np.ndarray) -> None:
    assert PackedMask.of(mask).unpacked().all()
