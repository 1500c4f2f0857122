"""Photos with artwork printed on them as no training recipe does it: what registration is fitted on and measured with.

A composite is a photo, flat artwork (a label, a sign or a logo with small print) printed through a homography, round
a cylinder or on folded cloth, under a gradient of light, blurred, noisy, coded as JPEG; one word or part is damaged.
The reference is the artwork's own file. Near misses are the same artwork with one letter, the word or one part changed.
The true pose is known for every pixel. `train` and `heldout` share no font and no photo.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw

from refine_ops.config import FocusSettings
from refine_ops.data.stages import damages
from refine_ops.data.synthetic import assets, grounds
from refine_ops.image import focus
from refine_ops.image.registration.frames import project
from refine_ops.records import FocusCrop

Geometry = Literal["plane", "cylinder", "fold"]
Change = Literal["none", "letter", "text"]
SIDE_PX: Final = 420
GEOMETRIES: Final[tuple[Geometry, ...]] = ("plane", "cylinder", "fold")
DAMAGES: Final = ("blur", "part", "melted", "erased", "garbled")
_LETTERS: Final = "ABCDEFGHKLMNOPRSTUVXYZ"
_WORDS: Final = (
    "VELORA", "Kestrel", "NORDMARK", "Aurelia", "Tandem", "PILGRIM", "Sorrento", "Maison Ver", "QUARTZ", "Bellamy",
    "Oak & Rye", "HALCYON", "Fjord", "Marlowe", "CINDER", "Vespera", "Tilburn", "ASTRID", "Ruston", "Damask",
)  # fmt: skip
_SMALL: Final = (
    "NET WT 250 g",
    "EST. 1894",
    "made in Porto",
    "12% vol.",
    "No 27 - batch 4",
    "organic cotton",
    "100 ml",
)


@dataclass(frozen=True, eq=False)
class Composite:
    """`image` is damaged inside `mask`, `target` is not; `pose` `(H, W, 2)` says where on the artwork a pixel lies."""

    number: int
    geometry: Geometry
    damage: str
    kind: str
    image: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    pose: np.ndarray
    reference: np.ndarray
    near_miss: dict[str, np.ndarray]
    text: str


@lru_cache(maxsize=2)
def _library(side: assets.Side) -> assets.Library:
    return assets.library(side)


def composite(number: int, side: assets.Side, geometry: Geometry | None = None, damage: str | None = None) -> Composite:
    """Composite `number` of a side; the same arguments give the same pixels."""
    rng = np.random.default_rng((23, number, side == "heldout"))
    library = _library(side)
    geometry = geometry or GEOMETRIES[(0, 0, 1, 0, 2, 0)[number % 6]]
    damage = damage or DAMAGES[number % len(DAMAGES)]
    if number % 6 == 5:
        return _view(number, side, damage, library, rng)
    kind = ("label", "sign", "logo")[int(rng.choice(3, p=[0.5, 0.2, 0.3]))]
    draw = _artwork(kind, library, rng)
    art, spot, text = draw("none")
    target, pose = _print(art, geometry, library, rng, light := _Light.drawn(rng))
    mask = _mask(pose, spot, art.shape, rng)
    garbled = art
    if damage == "garbled":
        garbled = draw("garbled")[0]
        again, _ = _print(garbled, geometry, library, np.random.default_rng(0), light, pose, target)
        broken = again
    else:
        broken = _damaged(target, mask, damage, rng)
    blend = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)[..., None]
    image = np.rint(target * (1 - blend) + broken * blend).astype(np.uint8)
    return Composite(
        number, geometry, damage, kind, image, target, mask, pose, art,
        {change: draw(change)[0] for change in ("letter", "text")}, text,
    )  # fmt: skip


def _view(number: int, side: str, damage: str, library: assets.Library, rng: np.random.Generator) -> Composite:
    """A part of a photo, damaged; its reference is the photo seen from elsewhere in another light, the near miss
    another part of the same photo."""
    ground = grounds.photo_crop(library, (SIDE_PX, SIDE_PX), rng)[0]
    half = rng.uniform(40, 90, 2)
    middle = SIDE_PX / 2 + rng.uniform(-60, 60, 2)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float64)
    mask = (((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2) <= 1
    mask &= cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), 20) > -0.03

    def seen(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        turn = np.deg2rad(rng.uniform(-12, 12))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        quad = centre + (flat * half * 1.35) @ rotation.T + rng.uniform(-0.2, 0.2, (4, 2)) * half
        size = np.rint(half * 1.35 * 2 * rng.uniform(0.8, 1.6)).astype(int)
        goal = (flat + 1) / 2 * size
        matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), goal.astype(np.float32))
        cut = cv2.warpPerspective(ground, matrix, tuple(size.tolist()), borderMode=cv2.BORDER_REFLECT_101)
        lit = np.power(cut / 255, rng.uniform(0.8, 1.25)) * rng.uniform(0.8, 1.1, 3)
        w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
        pose = [(matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2]) / w for i in range(2)]
        return np.rint(lit.clip(0, 1) * 255).astype(np.uint8), np.stack(pose, -1).astype(np.float32)

    reference, pose = seen(middle)
    away = np.where(middle > SIDE_PX / 2, middle - 150, middle + 150)
    blend = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)[..., None]
    broken = _damaged(ground, mask, "melted" if damage == "garbled" else damage, rng)
    image = np.rint(ground * (1 - blend) + broken * blend).astype(np.uint8)
    near = {"text": seen(away)[0]}
    return Composite(number, "plane", damage, "view", image, ground, mask, pose, reference, near, "")


def shown(made: Composite, looks: FocusSettings | None = None) -> tuple[np.ndarray, np.ndarray, FocusCrop]:
    """The composite as a model sees it, about 256 x 256 px: view, mask, and the crop they come from."""
    looks = looks or FocusSettings()
    margin = focus.margin_in_pixels((SIDE_PX, SIDE_PX), looks.margin, looks.margin_unit, 8)
    crop = focus.plan_crop(made.mask, margin_px=margin, grid_px=8, pixels=looks.focus_pixels or 256 * 256)
    return focus.view(made.image, crop), focus.view_mask(focus.crop_of(made.mask, crop.crop), crop), crop


def pose_error(made: Composite, crop: FocusCrop, transform: np.ndarray) -> float:
    """How far from its true place the reference lies, on average over M, in pixels of the view."""
    x0, y0, x1, _ = crop.crop
    zoom = crop.size[0] / (x1 - x0 + crop.pad[0] + crop.pad[2])
    ys, xs = (axis[::7] for axis in np.nonzero(made.mask))
    true = np.stack([(xs - x0 + crop.pad[0] + 0.5) * zoom - 0.5, (ys - y0 + crop.pad[1] + 0.5) * zoom - 0.5], 1)
    return float(np.linalg.norm(project(transform, made.pose[ys, xs].astype(float)) - true, axis=1).mean())


def _artwork(kind: str, library: assets.Library, rng: np.random.Generator) -> Callable[[str], tuple]:
    """A function from the change to (artwork, the box of its word or part, the word)."""
    width = int(rng.integers(320, 900))
    height = int(width * rng.uniform(0.45, 1.1))
    paper = rng.integers(150, 256, 3) if rng.random() < 0.6 else rng.integers(0, 110, 3)
    dark = paper.mean() > 128
    inks = [rng.integers(0, 90, 3) if dark else rng.integers(170, 256, 3) for _ in range(2)]
    accent = rng.integers(0, 256, 3)
    font = library.fonts[int(rng.integers(len(library.fonts)))]
    small_font = library.fonts[int(rng.integers(len(library.fonts)))]
    word = _WORDS[int(rng.integers(len(_WORDS)))]
    other = _WORDS[(int(rng.integers(1, len(_WORDS))) + _WORDS.index(word)) % len(_WORDS)]
    letters = [i for i, c in enumerate(word) if c.isalpha()]
    at = letters[int(rng.integers(len(letters)))]
    letter = _LETTERS[(_LETTERS.find(word[at].upper()) + 1 + int(rng.integers(len(_LETTERS) - 1))) % len(_LETTERS)]
    changed = word[:at] + (letter if word[at].isupper() else letter.lower()) + word[at + 1 :]
    third = _WORDS[(_WORDS.index(word) + _WORDS.index(other) + 7) % len(_WORDS)][::-1].lower()
    lines = [_SMALL[int(i)] for i in rng.choice(len(_SMALL), 3, replace=False)]
    shapes = _shapes(rng)
    frame = rng.random() < 0.6
    at_y = float(rng.uniform(0.34, 0.6))

    def draw(change: str) -> tuple[np.ndarray, tuple[float, ...], str]:
        canvas = Image.new("RGB", (width, height), tuple(int(v) for v in paper))
        pen = ImageDraw.Draw(canvas)
        ink, second, bright = (tuple(int(v) for v in c) for c in (*inks, accent))
        if frame and kind != "logo":
            pen.rectangle((width * 0.03, height * 0.04, width * 0.97, height * 0.96), outline=second, width=width // 80)
        if kind == "logo":
            spot = _draw_shapes(pen, shapes, change, (width, height), (ink, bright, second))
            shown = ""
        else:
            shown = {"none": word, "letter": changed, "text": other, "garbled": third}[change]
            spot = _draw_text(pen, shown, font, (width / 2, height * at_y), (width * 0.8, height * 0.32), ink)
            if change != "none":  # a word of another length keeps the mask of the first
                spot = _draw_text(
                    ImageDraw.Draw(canvas.copy()),
                    word,
                    font,
                    (width / 2, height * at_y),
                    (width * 0.8, height * 0.32),
                    ink,
                )
        if kind == "label":
            _draw_text(pen, lines[0], small_font, (width / 2, height * 0.82), (width * 0.6, height * 0.09), second)
            _draw_text(pen, lines[1], small_font, (width * 0.5, height * 0.13), (width * 0.5, height * 0.1), bright)
            pen.line(
                (width * 0.15, height * 0.72, width * 0.85, height * 0.72), fill=bright, width=max(2, width // 150)
            )
        return np.asarray(canvas), spot, shown

    return draw


def _draw_text(pen: ImageDraw.ImageDraw, text: str, font: Path, at: tuple, room: tuple, ink: tuple) -> tuple:
    face = assets.font(font, 64)
    left, top, right, bottom = face.getbbox(text)
    size = int(64 * min(room[0] / max(right - left, 1), room[1] / max(bottom - top, 1)))
    face = assets.font(font, max(size, 8))
    pen.text(at, text, font=face, fill=ink, anchor="mm")
    return tuple(pen.textbbox(at, text, font=face, anchor="mm"))


def _shapes(rng: np.random.Generator) -> list[tuple]:
    return [
        (
            int(rng.integers(4)),
            rng.uniform(0.3, 0.7, 2),
            rng.uniform(0.12, 0.38),
            rng.uniform(0, 6.3),
            int(rng.integers(3, 7)),
        )
        for _ in range(4)
    ]


def _draw_shapes(pen: ImageDraw.ImageDraw, shapes: list, change: str, size: tuple, inks: tuple) -> tuple:
    """Overlapping shapes; a change of one part turns the last into another, a change of all redraws three."""
    box = [1e9, 1e9, -1e9, -1e9]
    for number, (shape, centre, radius, turn, corners) in enumerate(shapes):
        if (change == "letter" and number == 3) or (change in ("text", "garbled") and number > 0):
            shape, turn, corners = (shape + 1 + (change == "garbled")) % 4, turn + 1.1, corners + 2
        at, r = centre * size, radius * min(size)
        box = [min(box[0], at[0] - r), min(box[1], at[1] - r), max(box[2], at[0] + r), max(box[3], at[1] + r)]
        ink = inks[number % 3]
        if shape == 0:
            pen.ellipse((*(at - r), *(at + r)), fill=ink)
        elif shape == 1:
            pen.ellipse((*(at - r), *(at + r)), outline=ink, width=max(3, int(r / 4)))
        else:
            n = corners * (2 if shape == 3 else 1)
            angles = turn + np.arange(n) * 2 * np.pi / n
            radii = np.where(np.arange(n) % 2 == 0, r, r * (0.5 if shape == 3 else 1.0))
            pen.polygon(
                [tuple(p) for p in (at + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]).tolist()],
                fill=ink,
            )
    return tuple(box)


@dataclass(frozen=True)
class _Light:
    slope: tuple[float, float]
    gain: tuple[float, ...]
    blur_px: float
    noise: float
    quality: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Light":
        return cls(
            (float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.3, 0.3))),
            tuple(rng.uniform(0.65, 1.05, 3).tolist()),
            float(rng.uniform(0.4, 0.9)),
            float(rng.uniform(1, 4)),
            int(rng.integers(65, 96)),
        )


def _print(
    art: np.ndarray, geometry: str, library: assets.Library, rng: np.random.Generator, light: _Light,
    pose: np.ndarray | None = None, ground: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The artwork on a ground and where on it each pixel lies, in artwork pixels."""
    if ground is None:
        size = (SIDE_PX, SIDE_PX)
        ground = grounds.photo_crop(library, size, rng)[0] if rng.random() < 0.8 else grounds.texture(size, rng)
    if pose is None:
        pose = _pose(geometry, art.shape, rng)
    fine = cv2.resize(pose, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    step = float(np.median(np.abs(np.diff(pose[..., 0], axis=1)))) / 2
    k = min(1.0, 1 / max(step, 1e-3))
    small = cv2.resize(art, None, fx=k, fy=k, interpolation=cv2.INTER_AREA).astype(np.float32)
    fx, fy = small.shape[1] / art.shape[1], small.shape[0] / art.shape[0]
    xs, ys = ((fine[..., i] + 0.5) * f - 0.5 for i, f in ((0, fx), (1, fy)))
    drawn = cv2.remap(
        small, xs.astype(np.float32), ys.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    on = (
        (fine[..., 0] >= -0.5)
        & (fine[..., 0] <= art.shape[1] - 0.5)
        & (fine[..., 1] >= -0.5)
        & (fine[..., 1] <= art.shape[0] - 0.5)
    )
    small_size = (SIDE_PX, SIDE_PX)
    alpha = cv2.resize(on.astype(np.float32), small_size, interpolation=cv2.INTER_AREA)[..., None]
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX - 0.5
    shade = (1 + light.slope[0] * x + light.slope[1] * y)[..., None] * np.array(light.gain)
    printed = ground * (1 - alpha) + cv2.resize(drawn, small_size, interpolation=cv2.INTER_AREA) * shade * alpha
    printed = cv2.GaussianBlur(printed, (0, 0), light.blur_px)
    printed += cv2.GaussianBlur(rng.standard_normal(printed.shape), (0, 0), 0.6) * light.noise
    coded = cv2.imencode(
        ".jpg", np.rint(printed.clip(0, 255)).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, light.quality]
    )[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR), pose


def _pose(geometry: str, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """Where on the artwork each pixel lies: a homography, after it a cylinder or a fold."""
    height, width = shape[:2]
    across = float(rng.uniform(110, 230))
    half = np.array([across, across * height / width]) / 2
    half *= min(1.0, 130 / half.max())
    turn = np.deg2rad(rng.uniform(-25, 25))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    tilt = 0.13 if geometry == "plane" else 0.05
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    middle = SIDE_PX / 2 + rng.uniform(-30, 30, 2)
    quad = middle + (corners + rng.uniform(-tilt, tilt, (4, 2)) * half) @ rotation.T
    flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), flat)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float64)
    u, v, w = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(3))
    u, v = u / w, v / w
    if geometry == "cylinder":
        angle = float(rng.uniform(0.5, 1.1))
        inside = np.clip(u * np.sin(angle), -1, 1)
        bow = float(rng.uniform(-0.12, 0.12))
        v = v + bow * (np.sqrt(1 - np.clip(inside, -0.999, 0.999) ** 2) - 1)
        u = np.where(np.abs(u * np.sin(angle)) < 1, np.arcsin(inside) / angle, u * 3)
    elif geometry == "fold":
        wave, phase, reach = rng.uniform(2, 5), rng.uniform(0, 6.3), rng.uniform(0.015, 0.04)
        u = u + reach * np.sin(wave * v + phase)
        v = v + reach * np.sin(wave * u + 2 * phase)
    return np.stack([(u + 1) / 2 * width - 0.5, (v + 1) / 2 * height - 0.5], -1).astype(np.float32)


def _mask(pose: np.ndarray, spot: tuple, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    grow = rng.uniform(0.02, 0.06) * max(spot[2] - spot[0], spot[3] - spot[1])
    x0, y0 = max(spot[0] - grow, 0), max(spot[1] - grow, 0)
    x1, y1 = min(spot[2] + grow, shape[1] - 1), min(spot[3] + grow, shape[0] - 1)
    return (pose[..., 0] >= x0) & (pose[..., 0] <= x1) & (pose[..., 1] >= y0) & (pose[..., 1] <= y1)


def _damaged(target: np.ndarray, mask: np.ndarray, damage: str, rng: np.random.Generator) -> np.ndarray:
    if damage == "blur":
        kind = int(rng.integers(4))
        if kind:
            blur = (damages.defocus_blur, damages.motion_blur, damages.down_up_sampling)[kind - 1]
            return blur(target, mask, float(rng.uniform(0.3, 1.0)), rng)
        return cv2.GaussianBlur(target, (0, 0), float(rng.uniform(1.8, 3.5)))
    if damage == "melted":
        return damages.local_warp(target, mask, float(rng.uniform(0.4, 1.0)), rng)
    if damage == "part":
        noise = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), 9)
        hole = mask & (noise > np.median(noise[mask]))
        return cv2.inpaint(target, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return cv2.inpaint(target, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
