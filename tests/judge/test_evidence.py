"""Evidence on planted regions: a better one, an equal one, and each kind of worse one."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import refine_ops.data.demo
from refine_ops.eval.gates.planted import HARMS, pasted, plant
from refine_ops.image import focus
from refine_ops.image.patch.tiles import hull, plan_tiles
from refine_ops.image.place import Place
from refine_ops.judge.evidence.change import agreement_of, change_thumbnail
from refine_ops.judge.evidence.measure import measure, native_reference, region_reference, zoom_of
from refine_ops.records import Conditioning, Evidence, FocusCrop, Mask, U8Image

DEMO = Path(refine_ops.data.demo.__path__[0])
SPOTS = {"astronaut.jpg": (110, 320), "coffee.jpg": (200, 20), "chelsea.jpg": (120, 80)}
SIDE = 160


def clean(name: str) -> U8Image:
    x, y = SPOTS[name]
    image = cv2.imread(str(DEMO / name), cv2.IMREAD_COLOR_RGB)
    return np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE], np.uint8)


def region() -> Mask:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[40:120, 36:124] = True
    return mask


def softened(image: U8Image, sigma: float = 2.0) -> U8Image:
    return pasted(image, np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8), region())


def found(before: U8Image, after: U8Image, reference: U8Image | None = None) -> Evidence:
    return measure(before, after, region(), reach_px=8, zoom=1.0, reference=reference)


def harmed(kind: str, image: U8Image) -> U8Image:
    names = sorted(SPOTS)
    other = clean(names[(int(image.sum()) + 1) % 3])
    if (other == image).all():
        other = clean(names[(int(image.sum()) + 2) % 3])
    return plant(kind, image, region(), other, np.random.default_rng(5))


@pytest.mark.parametrize("name", SPOTS)
def test_an_equal_region_has_lost_and_gained_nothing(name: str) -> None:
    image = clean(name)
    evidence = found(image, image, image)
    assert evidence.change == 0
    assert evidence.detail_lost == pytest.approx(0)
    assert evidence.detail_gained == pytest.approx(0)
    assert evidence.detail_kept == pytest.approx(1, abs=1e-3)
    assert evidence.structure == pytest.approx(1)
    assert evidence.colour == pytest.approx(0)
    assert evidence.shift_px == pytest.approx(0)
    assert evidence.overshoot == pytest.approx(0)
    assert evidence.seam == pytest.approx(0)
    assert evidence.reference_arrived == pytest.approx(0)
    assert evidence.reference_invented == pytest.approx(0)
    assert evidence.reference_after == evidence.reference_before


@pytest.mark.parametrize("name", SPOTS)
def test_a_restored_region_gains_detail_and_agrees_with_its_reference(name: str) -> None:
    image = clean(name)
    evidence = found(softened(image), image, image)
    assert evidence.detail_gained is not None
    assert evidence.detail_gained > 0.4
    assert evidence.detail_lost == pytest.approx(0, abs=0.02)
    assert evidence.structure == pytest.approx(1, abs=0.01)
    assert evidence.reference_after == pytest.approx(1, abs=0.01)
    assert evidence.reference_before is not None
    assert evidence.reference_before < 0.9
    assert evidence.reference_arrived == pytest.approx(1, abs=0.1)
    assert evidence.reference_invented == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("name", SPOTS)
def test_each_kind_of_worse_region_shows_in_its_own_number(name: str) -> None:
    image = clean(name)
    of = {kind: found(image, harmed(kind, image), image) for kind in HARMS}
    assert of["blurred"].detail_lost > 0.5  # type: ignore[operator]
    assert of["smeared"].detail_lost > 0.4  # type: ignore[operator]
    assert of["blurred"].detail_gained < -0.5  # type: ignore[operator]
    assert of["wrong reference pasted"].structure < 0.6  # type: ignore[operator]
    assert of["wrong reference pasted"].detail_kept < 0.3  # type: ignore[operator]
    assert of["text garbled"].detail_kept < 0.6  # type: ignore[operator]
    assert of["shifted"].shift_px > 1.5  # type: ignore[operator]
    assert of["recoloured"].colour > 8  # type: ignore[operator]
    assert of["over-sharpened"].overshoot > 6  # type: ignore[operator]
    assert of["over-sharpened"].detail_gained > 0.5  # type: ignore[operator]
    assert of["noise added"].grain > 2.5  # type: ignore[operator]
    for kind in set(HARMS) - {"recoloured"}:
        assert of[kind].reference_after < 0.98, kind  # type: ignore[operator]


def test_noise_and_jpeg_blocks_that_are_removed_are_no_lost_detail() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    smooth = np.stack([120 + 40 * np.sin(x / 29), 110 + 30 * np.cos(y / 23), 100 + x / 4], axis=-1).astype(np.uint8)
    cv2.putText(smooth, "Kestrel", (44, 90), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 20, 20), 2, cv2.LINE_AA)
    grain = np.random.default_rng(2).standard_normal(smooth.shape) * 5
    noisy = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    coded = cv2.imdecode(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 12])[1], cv2.IMREAD_COLOR)
    blurred = np.asarray(cv2.GaussianBlur(smooth, (0, 0), 2), np.uint8)
    for before in (noisy, np.asarray(coded, np.uint8)):
        restored, smeared = (found(before, pasted(before, after, region())) for after in (smooth, blurred))
        assert restored.detail_lost is not None
        assert smeared.detail_lost is not None
        assert restored.detail_lost < 0.12
        assert smeared.detail_lost > restored.detail_lost + 0.2


def test_what_was_not_given_is_not_measured() -> None:
    image = clean("coffee.jpg")
    evidence = measure(image, image, np.ones((SIDE, SIDE), np.bool_), reach_px=8)
    for name in ("zoom", "detail_around", "grain", "reference_after", "text_after", "drift_px", "seam", "candidates"):
        assert getattr(evidence, name) is None, name


def test_a_reference_comes_back_from_the_view_to_the_crop() -> None:
    image = clean("coffee.jpg")
    crop = FocusCrop(tight=(50, 50, 110, 110), crop=(0, 0, 160, 150), pad=(0, 0, 0, 10), size=(320, 320))
    padded = cv2.copyMakeBorder(image[:150], 0, 10, 0, 0, cv2.BORDER_REFLECT_101)
    view = np.asarray(cv2.resize(padded, (320, 320), interpolation=cv2.INTER_CUBIC), np.uint8)
    everywhere = np.ones((320, 320), np.bool_)
    given = Conditioning(view, everywhere, everywhere, "", 0, reference=view, covered=everywhere)
    back = native_reference(given, crop)
    assert back is not None
    assert zoom_of(crop) == 2
    assert back[0].shape == (150, 160, 3)
    assert back[1].all()
    assert np.abs(back[0].astype(int) - image[:150]).mean() < 2
    assert native_reference(Conditioning(view, everywhere, everywhere, "", 0, reference=view), crop) is None


def test_the_reference_of_a_region_of_several_tiles_is_put_together(photo: np.ndarray) -> None:
    """Each tile is given its part, seen at half size; on the region they are one picture."""
    box = (100, 100, 400, 300)
    tiles = plan_tiles(box, (512, 512), grid_px=8, pixels=96 * 96, zoom=0.5)
    everywhere = np.ones((200, 300), bool)
    crop = FocusCrop(box, hull(tiles), (0, 0, 0, 0), tiles[0].crop.size)
    place = Place(crop, everywhere, everywhere, everywhere.astype(np.float32), tuple(tiles), box)
    given = []
    for tile in tiles:
        view = focus.view(photo, tile.crop)
        covered = np.ones(view.shape[:2], bool)
        given.append(Conditioning(view, covered, covered, "", 0, reference=view, covered=covered))
    found = region_reference(given, place)
    assert found is not None
    (x0, y0, _, _), (pixels, covered) = crop.crop, found
    on_box = np.s_[100 - y0 : 300 - y0, 100 - x0 : 400 - x0]
    assert covered[on_box].all()
    difference = np.abs(pixels[on_box].astype(int) - photo[100:300, 100:400])
    assert difference.mean() < 6
    assert region_reference([replace(g, covered=None) for g in given], place) is None


def test_a_large_region_is_measured() -> None:
    image = np.asarray(cv2.resize(clean("coffee.jpg"), (640, 640), interpolation=cv2.INTER_CUBIC), np.uint8)
    moved = np.roll(image, 3, axis=1)
    evidence = measure(image, moved, np.ones((640, 640), np.bool_), reach_px=8)
    assert evidence.shift_px == pytest.approx(3, abs=1)


def test_candidates_that_change_the_same_agree() -> None:
    """Twice the same restoration, one of them fainter, agrees; noise agrees with nothing; no change says nothing."""
    image = clean("coffee.jpg")
    blurred = softened(image)
    rng = np.random.default_rng(3)
    noisy = [
        pasted(blurred, np.asarray(np.clip(blurred + rng.normal(0, 9, blurred.shape), 0, 255), np.uint8), region())
        for _ in range(2)
    ]
    fainter = np.asarray(cv2.addWeighted(image, 0.6, blurred, 0.4, 0), np.uint8)
    restored, faint, noise, other, nothing = (
        change_thumbnail(blurred, after, region()) for after in (image, fainter, *noisy, blurred)
    )
    assert agreement_of(restored, []) is None
    assert agreement_of(restored, [nothing]) is None
    assert agreement_of(restored, [faint]) == pytest.approx(1, abs=0.03)
    for one, others in [(noise, [other]), (restored, [noise, other])]:
        found = agreement_of(one, others)
        assert found is not None
        assert abs(found) < 0.15
    assert max(change_thumbnail(image, blurred, np.ones(image.shape[:2], bool)).shape) == 96
