"""Masks as run lengths, against pycocotools and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as second_reader

from refine_ops.annotations import run_lengths
from refine_ops.errors import ItemError

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@settings(max_examples=30)
@given(MASKS)
def test_coco_run_lengths_are_those_of_pycocotools_in_both_directions(mask: np.ndarray) -> None:
    size = (mask.shape[1], mask.shape[0])
    theirs = second_reader.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    runs = run_lengths.runs_in(mask, "F")
    assert run_lengths.compressed(runs) == theirs
    np.testing.assert_array_equal(run_lengths.uncompressed(theirs, mask.size, "counts"), runs)
    np.testing.assert_array_equal(run_lengths.painted(runs, size, "F"), mask)


def test_long_runs() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[100:2900, 7:1990] = True
    theirs = second_reader.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert run_lengths.compressed(run_lengths.runs_in(mask, "F")) == theirs
    found = run_lengths.painted(run_lengths.uncompressed(theirs, mask.size, "counts"), (2000, 3000), "F")
    np.testing.assert_array_equal(found, mask)


@settings(max_examples=25)
@given(MASKS)
def test_a_brush_comes_back(mask: np.ndarray) -> None:
    size = (mask.shape[1], mask.shape[0])
    np.testing.assert_array_equal(run_lengths.brush_mask(run_lengths.brush_data(mask), size, "rle"), mask)


def test_a_brush_of_values_one_by_one_and_half_transparent() -> None:
    """As the format's author describes it: 32 bits of length, 5 of word size, four widths; a 0 says that values follow.
    Alpha counts from half on."""
    pixels = bytes([255, 0, 0, 200, 9, 9, 9, 127])
    bits = f"{8:032b}{7:05b}" + "".join(f"{w - 1:04b}" for w in (3, 4, 8, 16))
    bits += f"0{0:02b}{8 - 1:03b}" + "".join(f"{v:08b}" for v in pixels)
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(run_lengths.brush_mask(data, (2, 1), "rle"), [[True, False]])


@pytest.mark.parametrize(
    "counts", ["", "~~~~", "0" * 3, "PPPPPPPPPPPPPPPPPPPP", "o", "é", [1, 2], [-1, 13], [12.0], [True] * 12, None, {}]
)
def test_run_lengths_that_are_none_are_refused_before_anything_is_allocated(counts: object) -> None:
    read = run_lengths.uncompressed if isinstance(counts, str) else run_lengths.runs_of
    with pytest.raises(ItemError) as refused:
        read(counts, 12, "counts")  # type: ignore[arg-type]
    assert refused.value.reason == "rle.invalid"


@pytest.mark.parametrize("cut", [0, 1, 6, -1])
def test_a_brush_that_is_cut_off_is_refused(cut: int) -> None:
    data = run_lengths.brush_data(np.eye(6, dtype=bool))
    with pytest.raises(ItemError):
        run_lengths.brush_mask(data[:cut], (6, 6), "rle")


@pytest.mark.parametrize("data", [[256], [1.5], ["a"], "abc", 5, [0] * 100])
def test_a_brush_of_other_things_is_refused(data: object) -> None:
    with pytest.raises(ItemError):
        run_lengths.brush_mask(data, (6, 6), "rle")
