"""Grey with alpha in 16 bits is edited in place, as every other kind of PNG is."""

import numpy as np
import pytest

from refine_ops.config import WriteSettings
from refine_ops.image import read
from tests.support.chain import LIMITS, near, refine
from tests.support.made_files import opencv_samples, picture, png, unfilter_png

RGB = picture(np.random.default_rng(5), 80, 64).astype(np.uint16)
GREY = RGB[..., 0] * 257 + np.arange(80, dtype=np.uint16)
ALPHA = RGB[..., 1] * 251
SAMPLES = np.dstack([GREY, ALPHA])
BOX = (30, 20, 44, 33)


@pytest.mark.parametrize("interlaced", [False, True])
def test_every_sample_outside_the_region_and_all_alpha_stay(interlaced: bool) -> None:
    data = png(SAMPLES, interlaced=interlaced)
    assert np.array_equal(read.decode(data, name="x", limits=LIMITS).native.samples, SAMPLES)
    done = refine(data, [BOX])
    after = unfilter_png(done.encoded.data)
    assert (after.dtype, after.shape) == (np.uint16, SAMPLES.shape)
    assert np.array_equal(after[..., 1], ALPHA)
    outside = ~near([BOX], 80, 64)
    assert np.array_equal(after[outside], SAMPLES[outside])
    assert not np.array_equal(after[20:33, 30:44, 0], GREY[20:33, 30:44])
    assert np.array_equal(opencv_samples(done.encoded.data)[..., 0], after[..., 0])


def test_converted_to_png_it_holds_the_same() -> None:
    done = refine(png(SAMPLES), [BOX], WriteSettings(output_format="png"))
    assert np.array_equal(unfilter_png(done.encoded.data)[..., 1], ALPHA)
