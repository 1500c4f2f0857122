"""RefineEval-mini: clean, annotated images from four bundled photos and rendered marks, for `build_cases`.

The photos and fonts are the held-out ones: the tiny checkpoint never saw them. There is one photo of a person and one
of a cat, so cases of one photo share it; a rendered reference is the mark itself in another place, a photographed
one is the object from the same photo in another pose and light. Both are easier than a second photograph.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.data.synthetic import assets
from refine_ops.data.synthetic.marks import logo
from refine_ops.eval.cases.case_set import Setting
from refine_ops.eval.cases.mini_drawing import posed, printed_on, typeset
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import Box, Mask, U8Image

SIDE_PX: Final = 256
Photo = Literal["astronaut", "coffee", "chelsea", "rocket"]
_SOURCES: Final[dict[Photo, tuple[str, str]]] = {
    "astronaut": ("Eileen Collins, NASA Great Images (scikit-image: astronaut)", "public domain"),
    "coffee": ("Coffee cup, Rachel Michetti, Pikolo Espresso Bar (scikit-image: coffee)", "CC0-1.0"),
    "chelsea": ("Chelsea the cat, Stefan van der Walt (scikit-image: chelsea)", "CC0-1.0"),
    "rocket": ("DSCOVR on Falcon 9, SpaceX (scikit-image: rocket)", "public domain"),
}


@dataclass(frozen=True, slots=True)
class _Object:
    """Something in a photo: `box` in the photo's pixels, the photo scaled by `scale` before the window is cut."""

    case_id: str
    category: str
    photo: Photo
    box: Box
    what: str
    reference: bool = False
    shape: Literal["ellipse", "box"] = "ellipse"
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Mark:
    """A mark printed on a photo around (x, y), `width` px wide; `text` is typeset, else a logo is drawn."""

    case_id: str
    category: str
    photo: Photo
    at: tuple[int, int]
    width: int
    text: str = ""
    font: int = 0
    reference: bool = False


_OBJECTS: Final = (
    _Object("person-portrait", "person", "astronaut", (168, 62, 272, 192), "the astronaut's face", True),
    _Object("person-eyes", "person", "astronaut", (178, 82, 264, 126), "the astronaut's eyes", True, "box", 1.25),
    _Object("person-smile", "person", "astronaut", (188, 122, 262, 168), "the astronaut's mouth", True, "ellipse", 1.5),
    _Object("logo-mission-patch", "logo", "astronaut", (128, 342, 214, 428), "the mission patch", True),
    _Object("product-cup", "product", "coffee", (176, 16, 410, 210), "the coffee cup", True, "ellipse", 0.66),
    _Object("product-spoon", "product", "coffee", (322, 242, 412, 328), "the spoon", True),
    _Object("product-shuttle", "product", "astronaut", (352, 130, 462, 292), "the shuttle model", True, "box", 0.8),
    _Object("product-helmet", "product", "astronaut", (290, 340, 506, 512), "the helmet", True, "ellipse", 0.6),
    _Object("body-collar", "body", "astronaut", (106, 146, 308, 300), "the suit's collar", False, "ellipse", 0.7),
    _Object("body-forearm", "body", "astronaut", (100, 446, 210, 512), "the astronaut's forearm", False, "box"),
    _Object("body-shoulder", "body", "astronaut", (36, 226, 146, 336), "the astronaut's shoulder"),
    _Object("object-handle", "object", "coffee", (192, 226, 262, 312), "the cup's handle"),
    _Object("object-foam", "object", "coffee", (200, 92, 378, 202), "the coffee in the cup", False, "ellipse", 0.75),
    _Object("object-rocket", "object", "rocket", (292, 116, 352, 256), "the rocket", False, "box"),
    _Object("object-tower", "object", "rocket", (10, 150, 88, 262), "the lattice tower", False, "box"),
    _Object("object-lights", "object", "rocket", (130, 350, 216, 427), "the lights of the launch pad"),
    _Object("face-astronaut", "face", "astronaut", (176, 76, 266, 182), "the face"),
    _Object("face-cat-eye", "face", "chelsea", (126, 74, 210, 152), "the cat's eye"),
    _Object("face-cat-nose", "face", "chelsea", (206, 206, 326, 300), "the cat's nose and mouth"),
)
_MARKS: Final = (
    _Mark("logo-on-wood", "logo", "coffee", (480, 300), 96, reference=True),
    _Mark("logo-on-sky", "logo", "rocket", (200, 120), 88, reference=True),
    _Mark("logo-on-fur", "logo", "chelsea", (110, 200), 92, reference=True),
    _Mark("logo-wordmark", "logo", "astronaut", (420, 420), 112, "Velora", 1, reference=True),
    _Mark("product-label", "product", "coffee", (240, 330), 104, "Fina No 7", 3, reference=True),
    _Mark("text-sign", "text", "rocket", (440, 90), 120, "Harbour 42", 3),
    _Mark("text-serif", "text", "coffee", (480, 90), 124, "Morning", 0),
    _Mark("text-script", "text", "chelsea", (380, 220), 112, "Luna", 1),
    _Mark("text-code", "text", "astronaut", (400, 60), 120, "K-3907", 2),
    _Mark("text-tag", "text", "astronaut", (80, 430), 100, "Orbit", 4),
)


def write_mini(folder: str) -> None:
    """Write images and `annotations.jsonl` of the clean cases; equal bytes every time."""
    library = assets.library("heldout")
    lines = []
    for number, (row, files) in enumerate([*_object_cases(), *_mark_cases(library)]):
        for name, content in files.items():
            storage.write(storage.join(folder, name), content)
        lines.append(json.dumps(row | {"format": "jpeg" if number % 3 == 2 else "png"}, ensure_ascii=False))
    storage.write(storage.join(folder, "annotations.jsonl"), "\n".join(lines).encode())


def _object_cases() -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    for number, spec in enumerate(_OBJECTS):
        image, box = _window(_photo(spec.photo, spec.scale), _scaled(spec.box, spec.scale))
        shape = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        x0, y0, x1, y1 = box
        if spec.shape == "box":
            shape[y0:y1, x0:x1] = 1
        else:
            centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0 - 1) // 2, (y1 - y0 - 1) // 2)
            cv2.ellipse(shape, centre, axes, 0, 0, 360, 1, -1)
        reference = posed(image, box, np.random.default_rng((7, number))) if spec.reference else None
        yield _case(spec, f"Refine {spec.what} in the masked region", "", image, shape.astype(bool), box, reference)


def _mark_cases(library: assets.Library) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    for number, spec in enumerate(_MARKS):
        rng = np.random.default_rng((11, number))
        sprite = (
            typeset(spec.text, library.fonts[spec.font % len(library.fonts)], rng)
            if spec.text
            else logo(library, rng)[0]
        )
        around = (spec.at[0] - 1, spec.at[1] - 1, spec.at[0] + 1, spec.at[1] + 1)
        ground, spot = _window(_photo(spec.photo, 1.0), around)
        centre = np.clip(spot[:2], spec.width * 0.6 + 8, SIDE_PX - spec.width * 0.6 - 8)
        image, shape = printed_on(sprite, ground, centre, spec.width, rng)
        closed = cv2.morphologyEx(shape.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8)).astype(bool)
        rows, columns = np.nonzero(closed.any(1))[0], np.nonzero(closed.any(0))[0]
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        reference = None
        if spec.reference:
            plain = cv2.GaussianBlur(np.rot90(ground).copy(), (0, 0), 8)
            reference, _ = printed_on(sprite, plain, np.full(2, SIDE_PX / 2), round(spec.width * 1.3), rng)
        what = f'the text "{spec.text}"' if spec.text else "the logo"
        text = spec.text if spec.category == "text" or spec.reference else ""
        yield _case(spec, f"Refine {what} in the masked region", text, image, closed, box, reference)


def _case(
    spec: _Object | _Mark, instruction: str, text: str, image: U8Image, shape: Mask, box: Box, reference: U8Image | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    setting: Setting = "free" if reference is None else "reference"
    source, licence = _SOURCES[spec.photo]
    files = {
        f"{spec.case_id}.png": encode_png(image),
        f"{spec.case_id}.mask.png": encode_png(shape),
    }
    row: dict[str, Any] = {
        "case_id": spec.case_id,
        "image": f"{spec.case_id}.png",
        "object_mask": f"{spec.case_id}.mask.png",
        "object_box": box,
        "setting": setting,
        "category": spec.category,
        "instruction": instruction,
        "text": text,
        "source": source,
        "source_sha256": assets.sha256(assets.DEMO_PHOTOS / f"{spec.photo}.jpg"),
        "licence": licence,
    }
    if reference is not None:
        name = f"{spec.case_id}.reference.png"
        row["reference"], files[name] = name, encode_png(reference)
    return row, files


def _photo(name: Photo, scale: float) -> U8Image:
    image = assets.photo(assets.DEMO_PHOTOS / f"{name}.jpg")
    if scale == 1:
        return image
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=method), np.uint8)


def _scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    return x0, y0, x1, y1


def _window(image: U8Image, box: Box) -> tuple[U8Image, Box]:
    """`SIDE_PX` square of `image` with `box` near its centre, and the box in it."""
    height, width = image.shape[:2]
    x = int(np.clip((box[0] + box[2]) // 2 - SIDE_PX // 2, 0, width - SIDE_PX))
    y = int(np.clip((box[1] + box[3]) // 2 - SIDE_PX // 2, 0, height - SIDE_PX))
    inside = max(0, box[0] - x), max(0, box[1] - y), min(SIDE_PX, box[2] - x), min(SIDE_PX, box[3] - y)
    return image[y : y + SIDE_PX, x : x + SIDE_PX].copy(), inside
