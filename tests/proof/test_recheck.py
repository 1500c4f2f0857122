"""Strict is judged on files made by other encoders than ours, and on ours."""

import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from refine_ops.config import ImageLimits, WriteSettings
from refine_ops.image.paste import Canvas, blend_mask
from refine_ops.image.read import decode
from refine_ops.image.source import Source
from refine_ops.image.write import encode
from refine_ops.proof.allowed import Rules, allowed_change
from refine_ops.proof.recheck import check_strict
from refine_ops.records import FocusCrop
from tests.support.made_runs import photo_edit, png

EDIT = photo_edit(1)
SUPPORT = cv2.dilate(EDIT.mask.view(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)


def _source(data: bytes) -> Source:
    return decode(data, name="test", limits=ImageLimits())


def _allowed(source: Source, output: Source, rules: Rules | None = None) -> np.ndarray:
    return allowed_change([(EDIT.mask, "mask")], source.size, source.data, output.data, rules or Rules()).where


def _jpeg(rgb: np.ndarray, subsampling: int = 2, **extra: object) -> bytes:
    out = BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=90, subsampling=subsampling, **extra)
    return out.getvalue()


def _refined(source: Source, settings: WriteSettings | None = None) -> Source:
    canvas = Canvas(source)
    x0, y0, x1, y1 = EDIT.crop
    crop = FocusCrop(EDIT.tight, EDIT.crop, (0, 0, 0, 0), (x1 - x0, y1 - y0))
    canvas.paste(crop, EDIT.sharp[y0:y1, x0:x1].astype(np.float32) / 255, blend_mask(EDIT.mask[y0:y1, x0:x1]))
    return _source(encode(source, canvas, settings or WriteSettings()).data)


def test_a_true_edit_is_strict_and_one_stray_pixel_is_found_where_it_is() -> None:
    source = _source(png(EDIT.before))
    allowed = _allowed(source, source)
    assert check_strict(source, _source(png(EDIT.after)), allowed, Rules()).changed_outside_px == 0
    stray = EDIT.after.copy()
    stray[3, 7, 2] ^= 1
    found = check_strict(source, _source(png(stray)), allowed, Rules())
    assert (found.changed_outside_px, found.max_diff_outside, found.where) == (1, 1, (7, 3, 8, 4))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("bleed", ["edge", "none"])
def test_our_own_jpeg_is_strict_and_a_re_save_is_not(subsampling: int, bleed: str) -> None:
    rules = Rules(jpeg_bleed=bleed)  # type: ignore[arg-type]
    source = _source(_jpeg(EDIT.before, subsampling))
    ours = _refined(source, WriteSettings(jpeg_bleed=bleed))  # type: ignore[arg-type]
    allowed = _allowed(source, ours, rules)
    strict = check_strict(source, ours, allowed, rules)
    assert (strict.changed_outside_px, strict.metadata_lost) == (0, ())
    assert (source.rgb != ours.rgb).any()
    saved_again = _source(_jpeg(ours.rgb, subsampling))
    assert check_strict(source, saved_again, allowed, rules).changed_outside_px > 1000


def test_every_orientation_is_judged_in_the_files_own_blocks() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(EDIT.before, 1))
    source = _source(_jpeg(turned, 2, exif=exif.tobytes()))
    assert source.size == (EDIT.before.shape[1], EDIT.before.shape[0])
    ours = _refined(source)
    allowed = _allowed(source, ours)
    assert check_strict(source, ours, allowed, Rules()).changed_outside_px == 0
    assert allowed.mean() < 0.5


def test_sixteen_bits_and_alpha_count() -> None:
    deep = EDIT.before.astype(np.uint16) * 257
    changed = deep.copy()
    changed[0, 0, 0] += 1
    files = [cv2.imencode(".png", cv2.cvtColor(i, cv2.COLOR_RGB2BGR))[1].tobytes() for i in (deep, changed)]
    source = _source(files[0])
    found = check_strict(source, _source(files[1]), SUPPORT, Rules())
    assert (found.changed_outside_px, found.max_diff_outside) == (1, 1)
    assert check_strict(source, _source(png(EDIT.before)), SUPPORT, Rules()).metadata_lost == (
        "bit depth (16 became 8)",
    )
    alpha = np.dstack([EDIT.before, np.full(EDIT.before.shape[:2], 200, np.uint8)])
    faded = alpha.copy()
    faded[5, 5, 3] = 100
    out = [BytesIO(), BytesIO()]
    for image, target in zip((alpha, faded), out, strict=True):
        Image.fromarray(image).save(target, "PNG")
    found = check_strict(_source(out[0].getvalue()), _source(out[1].getvalue()), SUPPORT, Rules())
    assert (found.changed_outside_px, found.max_diff_outside) == (1, 100)


def test_lost_metadata_is_named() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    kept = _jpeg(EDIT.before, 2, exif=exif.tobytes(), comment=b"SKU 17", dpi=(300, 300))
    source = _source(kept)
    lost = check_strict(source, _source(_jpeg(EDIT.before)), np.ones_like(SUPPORT), Rules()).metadata_lost
    assert any(name.startswith("EXIF") for name in lost)
    assert "comment (dropped)" in lost
    assert any(name.startswith("density") for name in lost)
    png_lost = check_strict(source, _source(png(EDIT.before)), np.ones_like(SUPPORT), Rules()).metadata_lost
    assert "format (jpeg became png)" in png_lost
    assert check_strict(source, _refined(source), SUPPORT, Rules()).metadata_lost == ()


def test_a_pngs_text_wherever_it_stands_and_its_exif_count() -> None:
    info = PngInfo()
    info.add_text("Author", "studio 7")
    info.add(b"zTXt", b"Late\0\0" + zlib.compress(b"after the pixels"), after_idat=True)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    files = [BytesIO(), BytesIO()]
    Image.fromarray(EDIT.before).save(files[0], "PNG", pnginfo=info, exif=exif.tobytes())
    Image.fromarray(EDIT.after).save(files[1], "PNG")
    source = _source(files[0].getvalue())
    lost = check_strict(source, _source(files[1].getvalue()), SUPPORT, Rules()).metadata_lost
    assert set(lost) == {"tEXt chunk (dropped)", "zTXt chunk (dropped)", "EXIF (dropped)"}
    assert check_strict(source, _refined(source), SUPPORT, Rules()).metadata_lost == ()


def test_another_size_is_a_violation_everywhere() -> None:
    source = _source(png(EDIT.before))
    cropped = _source(png(EDIT.after[:-1]))
    found = check_strict(source, cropped, SUPPORT, Rules())
    assert found.changed_outside_px == int((~SUPPORT).sum())
    assert any(name.startswith("size") for name in found.metadata_lost)
