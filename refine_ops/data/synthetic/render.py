"""One synthetic sample: a mark on a ground, its damage inside a mask, and a reference that shows the mark elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from refine_ops.data.config import MaskKind
from refine_ops.data.stages import masks
from refine_ops.data.stages.damages import ALL_EQUAL, degrade
from refine_ops.data.synthetic import assets, grounds
from refine_ops.data.synthetic.marks import MARKS, Sprite
from refine_ops.data.synthetic.prompts import prompt_for
from refine_ops.errors import ItemError, JobError
from refine_ops.image.paste import blend_mask, paste_back
from refine_ops.records import Mask, U8Image

Quad = npt.NDArray[np.float64]
"""Where a sprite's corners go: `(4, 2)` points (x, y), clockwise from top left."""
PHOTO: Final = "photo"
"""The family of samples without a mark: a part of a photo."""
LEAST_DAMAGE: Final = 25.0
"""Mean squared difference in the mask, in squared levels of 255 (34 dB): less is no damage and is drawn anew."""
_SUPERSAMPLING: Final = 2
_TRIES: Final = 60


@dataclass(frozen=True, slots=True)
class Recipe:
    """How samples are drawn. The same recipe and index give the same bytes.

    `pose` is the range of the reference's pose: 0 the very place and shape of the target's mark, 1 any other.
    `photo_regions` is the share of samples that damage a part of a photo instead of a mark (family `photo`).
    `exclude` names families of marks or of damage never to draw.
    """

    seed: int = 0
    size: tuple[int, int] = (128, 128)
    reference_share: float = 0.5
    pose: tuple[float, float] = (0.0, 1.0)
    exclude: frozenset[str] = frozenset()
    damages: Mapping[str, float] = field(default_factory=lambda: ALL_EQUAL)
    strength: tuple[float, float] = (0.0, 1.0)
    photo_share: float = 0.8
    photo_regions: float = 0.3


@dataclass(frozen=True, slots=True)
class SyntheticSample:
    """(I, I_ref, I*, M, y) and where it comes from. `input` equals `target` wherever `support` is False."""

    index: int
    input: U8Image
    target: U8Image
    mask: Mask
    support: Mask
    object_mask: Mask
    reference: U8Image | None
    prompt: str
    family: str
    mask_kind: MaskKind
    pose: float | None
    damages: tuple[tuple[str, float], ...]
    sources: tuple[tuple[str, str], ...]
    """(file name, SHA-256) of every font and photo used."""

    @property
    def families(self) -> tuple[str, ...]:
        """Mark and damage families, for holding out by name."""
        return (self.family, *(name for name, _ in self.damages))


def render(index: int, recipe: Recipe, library: assets.Library) -> SyntheticSample:
    """Render sample `index` of the endless series that the recipe describes.

    Raises:
        JobError: Everything is excluded, or no mark could be placed in `_TRIES` tries.
    """
    rng = np.random.default_rng((recipe.seed, index))
    names = [name for name in MARKS if name not in recipe.exclude]
    photos = 0.0 if PHOTO in recipe.exclude else recipe.photo_regions
    if not names and not photos:
        raise JobError(f"marks: expected at least one of {', '.join((PHOTO, *MARKS))} not excluded, got none")
    for _ in range(_TRIES):
        family = PHOTO if not names or rng.random() < photos else names[int(rng.integers(len(names)))]
        try:
            return _render(index, family, recipe, library, rng)
        except ItemError:
            continue  # the mark came out blank (a glyph the font lacks) or its scribble broke the limits: draw anew
    raise JobError(f"sample {index}: no mark could be drawn in {_TRIES} tries; fonts may lack letters")


def _render(
    index: int, family: str, recipe: Recipe, library: assets.Library, rng: np.random.Generator
) -> SyntheticSample:
    used: list[Path] = []
    draw = _photo_scene if family == PHOTO else _mark_scene
    target, shape, pose, reference = draw(family, recipe, library, rng, used)
    kind, mask = _mask(shape, rng)
    if not mask.any():
        raise ItemError("mark.invisible", "the mark came out so faint or thin that it covers no pixel by half")
    allowed = {name: weight for name, weight in recipe.damages.items() if name not in recipe.exclude}
    damaged, damages = degrade(target, mask, rng, allowed, recipe.strength)
    blend = blend_mask(mask)
    mixed = paste_back(target, damaged, blend)
    if np.square(mixed[mask].astype(np.float32) - target[mask]).mean() < LEAST_DAMAGE:
        raise ItemError("damage.invisible", f"{damages}: less than {LEAST_DAMAGE} squared levels changed in the mask")
    return SyntheticSample(
        index=index, input=mixed, target=target, mask=mask, support=blend > 0, object_mask=shape, reference=reference,
        prompt=prompt_for(family, reference is not None, rng), family=family, mask_kind=kind, pose=pose,
        damages=damages, sources=tuple((path.name, assets.sha256(path)) for path in used),
    )  # fmt: skip


RenderedScene = tuple[U8Image, Mask, float | None, U8Image | None]
"""Target, the object's shape, the reference's pose, the reference."""


def _mark_scene(
    family: str, recipe: Recipe, library: assets.Library, rng: np.random.Generator, used: list[Path]
) -> RenderedScene:
    """A mark printed on a ground; the reference shows it printed on another."""
    sprite, font = MARKS[family](library, rng)
    if not sprite[:, :, 3].any():
        raise ItemError("mark.blank", f"{font}: the font draws nothing for the chosen text")
    if font is not None:
        used.append(font)
    quad = _place(sprite, recipe.size, rng)
    target, shape = _print(sprite, quad, _ground(library, recipe, rng, used), rng)
    if rng.random() >= recipe.reference_share:
        return target, shape, None, None
    pose = float(rng.uniform(*recipe.pose))
    other = (1 - pose) * quad + pose * _place(sprite, recipe.size, rng)
    reference, _ = _print(sprite, other, _ground(library, recipe, rng, used), rng)
    return target, shape, pose, reference


def _photo_scene(
    family: str, recipe: Recipe, library: assets.Library, rng: np.random.Generator, used: list[Path]
) -> RenderedScene:
    """An ellipse or box of a photo; the reference is the same photo, moved by `pose` and in another light."""
    target, path = grounds.photo_crop(library, recipe.size, rng)
    used.append(path)
    width, height = recipe.size
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    half = rng.uniform(0.12, 0.36, 2) * (width, height)
    shape = grounds.ellipse_or_box(recipe.size, centre, half, rng)
    if rng.random() >= recipe.reference_share:
        return target, shape, None, None
    pose = float(rng.uniform(*recipe.pose))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    shift = rng.uniform(-0.18, 0.18, (1, 2)) + rng.uniform(-0.1, 0.1, (4, 2))
    moved = corners + pose * shift * (width, height)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    seen = cv2.warpPerspective(target, matrix, recipe.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    light = 255 * (seen.astype(np.float32) / 255) ** np.float32(rng.uniform(0.85, 1.18)) * rng.uniform(0.9, 1.1, 3)
    return target, shape, pose, np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _ground(library: assets.Library, recipe: Recipe, rng: np.random.Generator, used: list[Path]) -> U8Image:
    if rng.random() >= recipe.photo_share:
        return grounds.texture(recipe.size, rng)
    image, path = grounds.photo_crop(library, recipe.size, rng)
    used.append(path)
    return image


def _place(sprite: Sprite, size: tuple[int, int], rng: np.random.Generator) -> Quad:
    """A quadrilateral for the sprite: 40 to 85 % of the frame, turned by up to 25 degrees, in mild perspective."""
    height, width = sprite.shape[:2]
    frame = np.array(size, np.float64)
    fit = min(frame[0] / width, frame[1] / height) * rng.uniform(0.4, 0.85)
    half = np.array([width, height]) * fit / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = np.deg2rad(np.clip(rng.normal(0, 10), -25, 25) if rng.random() < 0.8 else 0.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    tilt = rng.uniform(-0.12, 0.12, (4, 2)) * half.mean()
    slack = np.maximum(frame / 2 - half, 0)
    return np.asarray(frame / 2 + rng.uniform(-0.7, 0.7, 2) * slack + corners @ rotation.T + tilt, np.float64)


def _print(sprite: Sprite, quad: Quad, ground: U8Image, rng: np.random.Generator) -> tuple[U8Image, Mask]:
    """The sprite on the ground under one light, with noise: the image, and where the sprite covers at least half."""
    height, width = ground.shape[:2]
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array(sprite.shape[1::-1])
    scaled = (quad * _SUPERSAMPLING).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), scaled)
    colour = sprite.astype(np.float32)
    colour[:, :, :3] *= colour[:, :, 3:] / np.float32(255)  # premultiplied, or edges take the hidden colour
    large = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    warped = cv2.warpPerspective(colour, matrix, large, flags=cv2.INTER_LINEAR)
    warped = cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA)
    alpha = warped[:, :, 3:] / np.float32(255)
    worn = np.float32(rng.uniform(0.8, 1.0))
    printed = ground * (1 - worn * alpha) + worn * warped[:, :, :3]
    slope = rng.uniform(-0.18, 0.18, 2)
    light = (
        1 + slope[0] * np.linspace(-1, 1, width)[None, :, None] + slope[1] * np.linspace(-1, 1, height)[:, None, None]
    )
    grain = rng.standard_normal(printed.shape, np.float32) * np.float32(rng.uniform(0, 3))
    return np.clip(printed * light.astype(np.float32) + grain, 0, 255).astype(np.uint8), alpha[:, :, 0] >= 0.5


def _mask(shape: Mask, rng: np.random.Generator) -> tuple[MaskKind, Mask]:
    """Half scribbles, three tenths boxes, the rest the whole object; over the closed shape, not each letter."""
    closed = cv2.morphologyEx(shape.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8)).astype(bool)
    pick = rng.random()
    if pick < 0.5:
        return "scribble", masks.scribble_mask(closed, rng)
    return ("box", masks.box_mask(closed)) if pick < 0.8 else ("object", masks.dilated(closed))
