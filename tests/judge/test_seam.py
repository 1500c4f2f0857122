import cv2
import numpy as np
import pytest

from refine_ops.image.paste import blend_mask
from refine_ops.judge.evidence.seam import measure_seam
from tests.support.made_runs import photo_edit


def _grey(shape: tuple[int, int] = (160, 200), level: int = 120) -> np.ndarray:
    return np.full((*shape, 3), level, np.uint8)


def _disc(radius: int, shape: tuple[int, int] = (160, 200)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, (shape[1] // 2, shape[0] // 2), radius, 1, -1)
    return mask.astype(bool)


def test_a_hard_step_on_flat_ground_is_measured_at_its_true_size() -> None:
    before, mask = _grey(), _disc(40)
    after = before.copy()
    after[mask] += 12
    lab = [cv2.cvtColor(np.float32([[[v / 255] * 3]]), cv2.COLOR_RGB2LAB)[0, 0, 0] for v in (120, 132)]
    seam = measure_seam(before, after, mask, 8)
    assert seam is not None
    assert seam.de == pytest.approx(lab[1] - lab[0], rel=0.1)
    assert seam.share > 0.9


def test_a_step_that_shows_when_pasted_hard_does_not_under_the_real_blend() -> None:
    before, mask = _grey(), _disc(40)
    hard = measure_seam(before, (before + 6 * mask[..., None]).astype(np.uint8), mask, 8)
    blended = np.rint(before + 6 * blend_mask(mask)[..., None]).astype(np.uint8)
    soft = measure_seam(before, blended, mask, 8)
    assert hard is not None
    assert soft is not None
    assert (hard.de > 1.5, hard.share) == (True, 1.0)
    assert (soft.de < 1.5, soft.share) == (True, 0.0)


def test_nothing_changed_is_no_seam() -> None:
    edit = photo_edit(3)
    seam = measure_seam(edit.before, edit.before, edit.mask, 8)
    assert seam is not None
    assert (seam.de, seam.share) == (0.0, 0.0)


def test_an_edge_that_was_there_hides_the_step() -> None:
    mask = _disc(40)
    before = _grey()
    before[mask] = 60
    after = before.copy()
    after[mask] -= 10
    seam = measure_seam(before, after, mask, 8)
    assert seam is not None
    assert seam.de < 1.0


def test_an_edge_restored_along_the_boundary_is_no_seam_and_a_tone_pasted_there_is() -> None:
    mask = _disc(40)
    sharp = _grey()
    sharp[_disc(37)] = 170  # the thing that was marked: its outline follows the mask's
    before = np.where(_disc(48)[..., None], cv2.GaussianBlur(sharp, (0, 0), 4.0), sharp)
    blend = blend_mask(mask)[..., None]
    restored = np.rint(before * (1 - blend) + sharp * blend).astype(np.uint8)
    seam = measure_seam(before, restored, mask, 8)
    assert seam is not None
    assert seam.de < 0.5
    brighter = np.where(mask[..., None], np.float32(sharp) + 35, before).astype(np.uint8)
    seam = measure_seam(before, brighter, mask, 8)
    assert seam is not None
    assert seam.de > 3.0


def test_a_mask_too_thin_to_carry_a_tone_inward_is_measured_too() -> None:
    before = _grey()
    mask = np.zeros(before.shape[:2], bool)
    mask[76:81, 40:160] = True
    seam = measure_seam(before, (before + 12 * mask[..., None]).astype(np.uint8), mask, 8)
    assert seam is not None
    assert seam.de > 1.5


def test_the_worst_stretch_is_located_on_the_side_that_shows() -> None:
    before, mask = _grey(), _disc(45)
    after = np.rint(before + 14 * blend_mask(mask)[..., None]).astype(np.uint8)
    left = np.zeros_like(mask)
    left[:, :85] = True
    after[left & mask] = 134
    after[left & ~mask] = 120
    seam = measure_seam(before, after, mask, 8)
    assert seam is not None
    assert seam.de > 3.0
    assert max(x for x, _ in seam.worst) < 100


def test_the_image_border_is_no_seam_and_a_speck_is_not_measured() -> None:
    before = _grey()
    whole = np.ones(before.shape[:2], bool)
    assert measure_seam(before, before + 20, whole, 8) is None
    corner = np.zeros_like(whole)
    corner[:60, :60] = True
    after = before.copy()
    after[corner] += 12
    seam = measure_seam(before, after, corner, 8)
    assert seam is not None
    assert all(x > 55 or y > 55 for x, y in seam.worst)  # on the sides that lie inside the image
    speck = np.zeros_like(whole)
    speck[80, 100] = True
    assert measure_seam(before, before, speck, 8) is None
