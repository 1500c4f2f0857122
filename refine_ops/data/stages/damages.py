"""Model-free damage: what generated or copied details look like when they collapse, without any weights.

Every function takes and returns `uint8 (h, w, 3)`, takes its strength in [0, 1] (0 mild, 1 severe), draws only from
the generator given, and leaves its input alone. Most damage the whole crop; the paste-back keeps what lies in the mask.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

import cv2
import numpy as np

from refine_ops.errors import JobError
from refine_ops.records import Mask, U8Image

DamageFunction = Callable[[U8Image, Mask, float, np.random.Generator], U8Image]


def defocus_blur(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Disc kernel, radius 1 to 4 px."""
    radius = 1.0 + 3.0 * strength
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return _u8(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101))


def motion_blur(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Straight kernel in a random direction, 4 to 12 px long."""
    length = 4.0 + 8.0 * strength
    angle = rng.uniform(0, np.pi)
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    half = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    centre = side // 2
    start, end = np.rint((centre - half) * 16), np.rint((centre + half) * 16)
    line = cv2.line(kernel, start.astype(int).tolist(), end.astype(int).tolist(), 1.0, 1, cv2.LINE_8, 4)
    return _u8(cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT_101))


def down_up_sampling(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Shrunk 1.8 to 5 times by area and enlarged again, linearly or cubically."""
    factor = 1.8 + 3.2 * strength
    height, width = image.shape[:2]
    small = (max(2, round(width / factor)), max(2, round(height / factor)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    method = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
    return _u8(cv2.resize(shrunk, (width, height), interpolation=method))


def local_warp(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Smooth random displacement, up to 1.5 to 5 px, varying over about 12 px: letters melt."""
    height, width = image.shape[:2]
    cells = (max(2, width // 12), max(2, height // 12))
    reach = 1.5 + 3.5 * strength
    shift = rng.uniform(-reach, reach, (2, cells[1], cells[0])).astype(np.float32)
    dx, dy = (cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC) for field in shift)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return _u8(cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def stroke_erasure(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Two to seven short strokes through the mask, filled in from around them (Telea): parts of letters vanish."""
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        return image.copy()
    wiped = np.zeros(mask.shape, np.uint8)
    for _ in range(2 + round(5 * strength)):
        at = int(rng.integers(rows.size))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(4, 8 + 12 * strength)
        end = (int(columns[at] + length * np.cos(angle)), int(rows[at] + length * np.sin(angle)))
        cv2.line(wiped, (int(columns[at]), int(rows[at])), end, 255, int(rng.integers(2, 4 + round(3 * strength))))
    return _u8(cv2.inpaint(image, wiped, 3, cv2.INPAINT_TELEA))


def inpainting(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """OpenCV's Telea inpainting of blobs that cover 25 to 80 % of the mask: nothing of the mark is left there."""
    noise = rng.standard_normal(mask.shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5.0)
    inside = smooth[mask]
    if inside.size == 0:
        return image.copy()
    holes = (smooth > np.quantile(inside, 0.75 - 0.55 * strength)) & mask
    return _u8(cv2.inpaint(image, holes.astype(np.uint8), 3, cv2.INPAINT_TELEA))


def jpeg_artefacts(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Coded as JPEG at quality 30 down to 5."""
    quality = round(30 - 25 * strength)
    _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _u8(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def ghosting(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """A shifted copy, 2 to 7 px away, mixed in at 35 to 55 %."""
    angle, distance = rng.uniform(0, 2 * np.pi), 2.0 + 5.0 * strength * rng.uniform(0.5, 1.0)
    shift = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]], np.float32)
    moved = cv2.warpAffine(image, shift, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REFLECT_101)
    share = 0.35 + 0.2 * strength
    return _u8(cv2.addWeighted(image, 1 - share, moved, share, 0))


def noise(image: U8Image, mask: Mask, strength: float, rng: np.random.Generator) -> U8Image:
    """Gaussian noise of standard deviation 8 to 35, slightly blurred as denoisers leave it."""
    grain = rng.standard_normal(image.shape, np.float32) * (8 + 27 * strength)
    return _u8(np.clip(image + cv2.GaussianBlur(grain, (3, 3), 0.7), 0, 255))


DAMAGES: Final[Mapping[str, DamageFunction]] = {
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "down_up_sampling": down_up_sampling,
    "local_warp": local_warp,
    "stroke_erasure": stroke_erasure,
    "inpainting": inpainting,
    "jpeg_artefacts": jpeg_artefacts,
    "ghosting": ghosting,
    "noise": noise,
}
ALL_EQUAL: Final[Mapping[str, float]] = dict.fromkeys(DAMAGES, 1.0)


def degrade(
    image: U8Image,
    mask: Mask,
    rng: np.random.Generator,
    weights: Mapping[str, float] = ALL_EQUAL,
    strength: tuple[float, float] = (0.0, 1.0),
    steps: tuple[int, int] = (1, 2),
) -> tuple[U8Image, tuple[tuple[str, float], ...]]:
    """Apply different damages drawn by weight, one after another.

    Args:
        image: I*, `uint8 (h, w, 3)`.
        mask: M, `bool (h, w)`, for damages that aim at it.
        weights: Relative frequency by name; a name left out is never drawn.
        strength: Range that each step's strength is drawn from.
        steps: Fewest and most damages.

    Returns:
        The damaged crop (the caller pastes it back lightly) and (name, strength) in order of application.

    Raises:
        JobError: An unknown name, or nothing to draw from.
    """
    names = sorted(name for name, weight in weights.items() if weight > 0)
    unknown = [name for name in names if name not in DAMAGES]
    if unknown or not names:
        raise JobError(f"degradations: expected some of {', '.join(DAMAGES)}, got {', '.join(unknown) or 'none'}")
    share = np.array([weights[name] for name in names])
    wanted = min(int(rng.integers(steps[0], steps[1] + 1)), len(names))
    chosen = rng.choice(len(names), size=wanted, replace=False, p=share / share.sum())
    applied = []
    for index in chosen:
        power = float(rng.uniform(*strength))
        image = DAMAGES[names[index]](image, mask, power, rng)
        applied.append((names[index], round(power, 4)))
    return image, tuple(applied)


def check_exclude(exclude: Collection[str], styles: Collection[str]) -> None:
    """Refuse names that exclude nothing: a typing error would let the held-out family in.

    Raises:
        JobError: a name that is neither a degradation nor one of the source's `styles`.
    """
    known = sorted({*DAMAGES, *styles})
    unknown = sorted(set(exclude) - set(known))
    if unknown:
        raise JobError(f"exclude: no family is called {', '.join(unknown)}; there are {', '.join(known)}")


def _u8(array: cv2.typing.MatLike) -> U8Image:
    """OpenCV's result as the array type this project names."""
    return np.asarray(array).astype(np.uint8, copy=False)
