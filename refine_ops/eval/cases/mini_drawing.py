"""Drawing for RefineEval-mini: marks printed on photos, and an object seen in another pose."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from refine_ops.data.synthetic import assets
from refine_ops.data.synthetic.marks import Sprite, colours
from refine_ops.records import Box, Mask, U8Image


def posed(image: U8Image, box: Box, rng: np.random.Generator) -> U8Image:
    """The object with some surroundings in another pose and light: jittered perspective, gain, gamma."""
    x0, y0, x1, y1 = box
    margin = np.array([x1 - x0, y1 - y0]) * 0.2
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) + margin * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    corners = corners + rng.uniform(-0.12, 0.12, (4, 2)) * [x1 - x0, y1 - y0]
    size = np.rint(np.array([x1 - x0, y1 - y0]) + 2 * margin).astype(int)
    goal = np.array([[0, 0], [size[0], 0], size, [0, size[1]]])
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), goal.astype(np.float32))
    posed = cv2.warpPerspective(image, matrix, (int(size[0]), int(size[1])), borderMode=cv2.BORDER_REFLECT_101)
    lit = np.power(posed / 255, rng.uniform(0.85, 1.15)) * rng.uniform(0.85, 1.1, 3)
    return np.asarray(np.rint(lit.clip(0, 1) * 255), np.uint8)


def typeset(text: str, font: Path, rng: np.random.Generator) -> Sprite:
    """`text` on a plate, `uint8 (h, w, 4)`."""
    face = assets.font(font, 64)
    ink, fill = colours(rng)
    left, top, right, bottom = (int(v) for v in face.getbbox(text))
    plate = Image.new("RGBA", (right - left + 36, bottom - top + 36), (*fill, 255))
    ImageDraw.Draw(plate).text((18 - left, 18 - top), text, font=face, fill=(*ink, 255))
    return np.asarray(plate)


def printed_on(
    sprite: Sprite, ground: U8Image, centre: np.ndarray, width: int, rng: np.random.Generator
) -> tuple[U8Image, Mask]:
    """The sprite on the ground in mild perspective; also where it covers at least half."""
    height_px, width_px = sprite.shape[:2]
    half = np.array([width, width * height_px / width_px]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = np.deg2rad(rng.uniform(-12, 12))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    quad = centre + corners @ rotation.T + rng.uniform(-0.08, 0.08, (4, 2)) * half.mean()
    source = np.array([[0, 0], [width_px, 0], [width_px, height_px], [0, height_px]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (2 * quad).astype(np.float32))
    layer = sprite.astype(np.float32)
    layer[:, :, :3] *= layer[:, :, 3:] / 255  # premultiplied, or edges take the hidden colour
    large = cv2.warpPerspective(layer, matrix, (2 * ground.shape[1], 2 * ground.shape[0]), flags=cv2.INTER_LINEAR)
    fitted = cv2.resize(large, (ground.shape[1], ground.shape[0]), interpolation=cv2.INTER_AREA)
    alpha = fitted[:, :, 3:] / 255
    printed = ground * (1 - alpha) + fitted[:, :, :3]
    return np.rint(printed.clip(0, 255)).astype(np.uint8), alpha[:, :, 0] >= 0.5
