"""Align helps or does nothing: synthetic drifts of real photos, undone to at most a fifth; nothing where none was."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from skimage import data as photos

from refine_ops.config import AlignSettings
from refine_ops.image import focus, paste
from refine_ops.image.patch import align, tone
from refine_ops.records import FocusCrop

SETTINGS = AlignSettings()
NAMES = ["astronaut", "coffee", "chelsea", "rocket"]
Drift = Callable[[np.ndarray], np.ndarray]


def moved(dx: float = 0, dy: float = 0, scale: float = 1) -> Drift:
    def apply(patch: np.ndarray) -> np.ndarray:
        height, width = patch.shape[:2]
        cx, cy = (width - 1) / 2, (height - 1) / 2
        matrix = np.array([[scale, 0, (1 - scale) * cx + dx], [0, scale, (1 - scale) * cy + dy]])
        flags, border = cv2.INTER_LANCZOS4, cv2.BORDER_REPLICATE
        return np.clip(cv2.warpAffine(patch, matrix, (width, height), flags=flags, borderMode=border), 0, 1)

    return apply


def gained(*gain: float) -> Drift:
    return lambda patch: tone.to_srgb(tone.to_linear(patch) * np.float32(gain))


def hue_turned(degrees: float) -> Drift:
    """A rotation about the grey axis in YIQ, in linear light."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5957, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ to_yiq
    return lambda patch: tone.to_srgb((tone.to_linear(patch) @ turn.T).astype(np.float32))


def chained(*drifts: Drift) -> Drift:
    def apply(patch: np.ndarray) -> np.ndarray:
        for drift in drifts:
            patch = drift(patch).astype(np.float32)
        return patch

    return apply


DRIFTS = {
    "shift 1": moved(1, 0),
    "shift 2.7": moved(-1.4, 2.3),
    "shift 6": moved(6, -3),
    "scale 1 %": moved(scale=1.01),
    "scale 2 %": moved(scale=1.02),
    "scale -2 %, shift": moved(1.5, 0.5, 0.98),
    "gain 0.9": gained(0.9, 0.9, 0.9),
    "gains": gained(1.1, 0.95, 0.9),
    "hue 10": hue_turned(10),
    "all": chained(gained(1.06, 1.0, 0.92), moved(2.5, -1.5, 1.01)),
}


@dataclass
class Scene:
    """A photo, its copy with a blurred region, and the patch that a perfect model would return."""

    truth: np.ndarray
    crop: FocusCrop
    ideal: np.ndarray
    blend: np.ndarray
    mask: np.ndarray

    def pasted(self, patch: np.ndarray, correction: align.Correction) -> np.ndarray:
        weight = self.blend[..., None]
        return weight * align.undo(patch, self.crop, correction) + (1 - weight) * (self.truth / np.float32(255))

    def estimate(self, patch: np.ndarray, settings: AlignSettings = SETTINGS) -> align.Correction:
        known = align.known_pixels(self.crop, self.blend > 0, np.ones(patch.shape[:2], bool))
        return align.estimate(self.truth, patch, self.crop, known, settings)


def scene(rgb: np.ndarray, side: int = 90) -> Scene:
    height, width = rgb.shape[:2]
    mask = np.zeros((height, width), bool)
    x, y = width // 2 - side // 2, height // 2 - side // 2
    mask[y : y + side, x : x + side] = True
    crop = focus.plan_crop(mask, margin_px=64, grid_px=32, pixels=512 * 512)
    damaged = rgb.copy()
    damaged[mask] = cv2.GaussianBlur(rgb, (0, 0), 4)[mask]
    local = focus.crop_of(mask, crop.crop)
    ideal = focus.view(rgb, crop).astype(np.float32) / np.float32(255)
    truth = np.ascontiguousarray(focus.crop_of(damaged, crop.crop))
    return Scene(truth, crop, ideal, paste.blend_mask(local), local)


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {name: scene(np.ascontiguousarray(getattr(photos, name)())) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_reduced_at_least_five_times(scenes: dict[str, Scene], name: str, kind: str) -> None:
    """Error of the pasted region, and energy along the seam, both against the paste of the patch without drift."""
    s = scenes[name]
    patch = DRIFTS[kind](s.ideal).astype(np.float32)
    correction = s.estimate(patch)
    wanted = s.pasted(s.ideal, align.NO_CORRECTION)
    raw, undone = (s.pasted(patch, c) - wanted for c in (align.NO_CORRECTION, correction))
    assert np.abs(undone[s.mask]).mean() * 5 < np.abs(raw[s.mask]).mean()
    seam = (s.blend > 0) & ~s.mask
    assert (undone[seam] ** 2).sum() * 25 < (raw[seam] ** 2).sum()
    assert correction.alignment.measured
    assert correction.alignment.de00_after <= correction.alignment.de00_before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_without_drift_the_output_changes_by_at_most_1(scenes: dict[str, Scene], name: str, noise: float) -> None:
    s = scenes[name]
    patch = s.ideal + np.random.default_rng(0).normal(0, noise, s.ideal.shape)
    patch = np.clip(patch, 0, 1).astype(np.float32)
    correction = s.estimate(patch)
    change = s.pasted(patch, correction) - s.pasted(patch, align.NO_CORRECTION)
    assert np.abs(change).max() * 255 <= 1
    assert not correction.alignment.geometry_applied


def test_changed_content_beside_the_region_does_not_mislead(scenes: dict[str, Scene]) -> None:
    """A quarter of the known pixels shows something else entirely; the shift is still found."""
    s = scenes["astronaut"]
    patch = moved(3, -2)(s.ideal).astype(np.float32)
    height, width = patch.shape[:2]
    patch[: height // 2, : width // 2] = np.random.default_rng(1).random((height // 2, width // 2, 3))
    correction = s.estimate(patch)
    assert correction.alignment.geometry_applied
    wanted = s.pasted(s.ideal, align.NO_CORRECTION)
    raw, undone = (s.pasted(patch, c) - wanted for c in (align.NO_CORRECTION, correction))
    far = s.mask.copy()
    far[: far.shape[0] // 2 + 4, : far.shape[1] // 2 + 4] = False
    assert np.abs(undone[far]).mean() * 5 < np.abs(raw[far]).mean()


@pytest.mark.parametrize("level", [0.97, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.012])
def test_a_flat_ring_neither_moves_nor_recolours(level: float, noise: float) -> None:
    """A product on plain ground: the ring tells a gain, nothing about position, and nothing about other colours."""
    rng = np.random.default_rng(0)
    rgb = np.full((400, 400, 3), level)
    rgb[150:250, 150:250] = rng.random((10, 10, 3)).repeat(10, axis=0).repeat(10, axis=1)
    noisy = np.clip(rgb + rng.normal(0, noise, rgb.shape), 0, 1)
    s = scene(np.rint(noisy * 255).astype(np.uint8), side=104)
    patch = np.clip(s.ideal + rng.normal(0, noise, s.ideal.shape), 0, 1).astype(np.float32)
    still = s.estimate(patch)
    assert not still.alignment.geometry_applied
    assert not still.alignment.tone_applied
    darker = gained(0.88, 0.88, 0.88)(patch)
    correction = s.estimate(darker)
    assert correction.alignment.tone_applied
    error = s.pasted(darker, correction) - s.pasted(patch, align.NO_CORRECTION)
    raw = s.pasted(darker, align.NO_CORRECTION) - s.pasted(patch, align.NO_CORRECTION)
    assert np.abs(error[s.mask]).mean() * 4 < np.abs(raw[s.mask]).mean()


def test_limits_are_settings(scenes: dict[str, Scene]) -> None:
    s = scenes["chelsea"]
    far = moved(6, 0)(s.ideal).astype(np.float32)
    assert s.estimate(far).alignment.geometry_applied
    assert not s.estimate(far, AlignSettings(max_shift_px=4)).alignment.geometry_applied
    assert not s.estimate(far, AlignSettings(geometry=False)).alignment.geometry_applied
    dark = gained(0.8, 0.8, 0.8)(s.ideal)
    assert s.estimate(dark).alignment.tone_applied
    assert not s.estimate(dark, AlignSettings(max_de00=3)).alignment.tone_applied
    assert not s.estimate(dark, AlignSettings(tone=False)).alignment.tone_applied
    assert s.estimate(dark, AlignSettings(tone=False)).alignment.de00_before > 3, "measured although not undone"


def test_too_few_known_pixels_are_unmeasured(scenes: dict[str, Scene]) -> None:
    s = scenes["coffee"]
    patch = moved(4, 4)(s.ideal).astype(np.float32)
    known = np.zeros(s.mask.shape, bool)
    known[:10, :20] = True
    correction = align.estimate(s.truth, patch, s.crop, known, SETTINGS)
    assert not correction.alignment.measured
    assert correction is align.NO_CORRECTION


def test_pixels_put_back_from_known_latents_are_no_evidence() -> None:
    """Sparse targets: where the model generated nothing, agreement proves nothing."""
    crop = FocusCrop((8, 8, 24, 24), (0, 0, 32, 32), (0, 0, 0, 0), (64, 64))
    support = np.zeros((32, 32), bool)
    support[8:24, 8:24] = True
    generated = np.zeros((64, 64), bool)
    generated[8:56, 8:56] = True
    known = align.known_pixels(crop, support, generated)
    assert not (known & support).any()
    assert not known[:4].any()
    assert known[6, 16]
