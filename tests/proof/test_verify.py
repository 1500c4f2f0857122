"""Verify must catch every broken promise: each test breaks one in the very bytes and expects the verdict."""

from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from refine_ops.config import PasteSettings, WriteSettings
from refine_ops.proof.verify import VerifyError, verify
from tests.support.chain import ChainResult, refine
from tests.support.made_files import (
    exif_block,
    jpeg,
    opencv_samples,
    picture,
    pillow_samples,
    png,
    tiff,
    webp,
    with_chunks,
    with_segments,
)

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)


def verdict(done: ChainResult, data: bytes, **changes: bool) -> VerifyError:
    with pytest.raises(VerifyError) as caught:
        verify(done.source, data, done.regions, done.rules, **changes)
    return caught.value


@pytest.mark.parametrize("kind", ["png", "png16", "webp", "tiff"])
@pytest.mark.parametrize("at", [(0, 0), (63, 79), (40, 5)])
def test_one_level_in_one_pixel_outside_is_caught(kind: str, at: tuple[int, int]) -> None:
    make = {"png": png, "png16": png, "webp": lambda s: webp(s, True), "tiff": tiff}[kind]
    done = refine(make(RGB.astype(np.uint16) * 257 if kind == "png16" else RGB), [BOX])
    samples = done.canvas.samples.copy()
    samples[at] ^= 1
    error = verdict(done, make(samples))
    assert error.reason == "verify.background_changed"
    assert "1 px outside" in str(error)
    assert Image.open(BytesIO(error.picture)).size[1] > 0


def test_a_resaved_jpeg_is_caught_even_at_its_own_tables() -> None:
    done = refine(jpeg(RGB, "420"), [BOX])
    out = BytesIO()
    image = Image.open(BytesIO(done.encoded.data))
    image.save(out, "JPEG", quality="keep")
    assert verdict(done, out.getvalue()).reason == "verify.background_changed"


def test_the_allowed_change_is_not_taken_on_trust() -> None:
    """Bytes whose change lies elsewhere than asked for are refused, whatever produced them."""
    done = refine(jpeg(RGB, "420"), [BOX])
    elsewhere = refine(jpeg(RGB, "420"), [(2, 2, 5, 5)])
    assert verdict(done, elsewhere.encoded.data).reason == "verify.background_changed"


def test_what_the_writer_says_of_its_change_is_not_asked() -> None:
    """An edit that was to be confined and was not, written as if it had been allowed to reach further."""
    data = jpeg(RGB, "420")
    confined = replace(refine(data, [BOX]).rules, paste=PasteSettings(confine="region"))
    done = refine(data, [BOX])
    assert verdict(replace(done, rules=confined), done.encoded.data).reason == "verify.background_changed"


def test_a_conversion_that_loses_metadata_is_counted_as_such() -> None:
    data = with_segments(jpeg(RGB), (0xFE, b"a comment has no place in our PNG"))
    done = refine(data, [BOX], WriteSettings(output_format="png"))
    assert not done.proof.metadata_equal
    assert refine(data, [BOX]).proof.metadata_equal


@pytest.mark.parametrize(
    ("source", "cut"),
    [
        (with_segments(jpeg(RGB), (0xFE, b"kept"), (0xE1, b"Exif\0\0" + exif_block(1))), b"kept"),
        (with_segments(jpeg(RGB), (0xE1, b"Exif\0\0" + exif_block(1)), trailing=b"tail"), b"A. Photographer"),
        (with_segments(jpeg(RGB), trailing=b"gain map"), b"gain map"),
        (webp(RGB, True, exif=exif_block(1)), b"A. Photographer"),
        (tiff(RGB), b"me\0"),
    ],
)  # fmt: skip
def test_one_changed_byte_of_metadata_is_caught(source: bytes, cut: bytes) -> None:
    done = refine(source, [BOX])
    at = done.encoded.data.index(cut)
    broken = done.encoded.data[:at] + b"X" + done.encoded.data[at + 1 :]
    assert verdict(done, broken).reason == "verify.metadata_changed"


def test_a_lost_chunk_is_caught() -> None:
    done = refine(with_chunks(png(RGB), (b"tIME", bytes([7, 230, 11, 23, 18, 0, 0]))), [BOX])
    assert verdict(done, png(done.canvas.samples)).reason == "verify.metadata_changed"


def test_changed_depth_and_size_are_caught() -> None:
    deep = refine(png(RGB.astype(np.uint16) * 257), [BOX])
    assert verdict(deep, png(RGB)).reason == "verify.layout_changed"
    done = refine(png(RGB), [BOX])
    assert verdict(done, png(RGB[:-1])).reason == "verify.layout_changed"


def test_alpha_is_checked_inside_the_allowed_change_too() -> None:
    four = np.concatenate([RGB, np.full((64, 80, 1), 200, np.uint8)], axis=2)
    done = refine(png(four), [BOX])
    samples = done.canvas.samples.copy()
    samples[25, 35, 3] = 199
    assert verdict(done, png(samples)).reason == "verify.alpha_changed"


def test_unreadable_bytes_are_caught() -> None:
    done = refine(jpeg(RGB), [BOX])
    assert verdict(done, done.encoded.data[:-200]).reason == "verify.unreadable"


def test_an_unchanged_region_is_refused_unless_allowed() -> None:
    done = refine(png(RGB), [BOX])
    assert verdict(done, png(RGB)).reason == "verify.unchanged_region"
    proof = verify(done.source, png(RGB), done.regions, done.rules, allow_unchanged=True)
    assert proof.changed_px == 0


def test_the_proof_counts_what_opencv_counts() -> None:
    done = refine(jpeg(RGB, "420"), [BOX])
    before, after = opencv_samples(done.source.data), opencv_samples(done.encoded.data)
    assert done.proof.changed_px == int((before != after).any(axis=2).sum())
    assert done.proof.changed_outside_px == done.proof.max_diff_outside == 0
    assert done.proof.allowed_px == 50 * 49, "3 x 3 MCUs of 16 px at the upper edge, and the pixel beside"
    assert done.proof.metadata_equal


def test_the_picture_of_a_broken_promise_shows_source_output_and_difference() -> None:
    done = refine(png(RGB), [BOX])
    samples = done.canvas.samples.copy()
    samples[5, 6] = 255 - samples[5, 6]
    error = verdict(done, png(samples))
    shown = pillow_samples(error.picture)
    third = shown.shape[1] // 3
    assert np.array_equal(shown[5, 6], RGB[5, 6])
    assert np.array_equal(shown[5, third + 6], 255 - RGB[5, 6])
    assert cv2.countNonZero(shown[..., 0][:, 2 * third :]) >= 1
