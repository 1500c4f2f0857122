"""Clean, annotated cases in any number, drawn from the training fonts and photos: what a gate is calibrated on.

They are made as RefineEval-mini's are, of nothing that it shows: parts of photos and printed marks, half of them with
a reference in another pose, so that whatever is fitted here may be judged there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.data.synthetic import assets, grounds
from refine_ops.data.synthetic.marks import logo
from refine_ops.errors import ItemError
from refine_ops.eval.cases.mini_drawing import posed, printed_on, typeset
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import Box, Mask, U8Image

SIDE_PX: Final = 256
_PHOTO_SHARE: Final = 0.6
_LEAST_CONTRAST: Final = 12.0
"""Standard deviation of brightness in the object, in levels: less is sky or wall, where nothing can be refined."""
_TRIES: Final = 20
_LETTERS: Final = "ABCDEFGHKLMNOPRSTUVXYZabcdefghiklmnoprstuvwxyz0123456789"

Scene = tuple[U8Image, Mask, U8Image | None, str, str]
"""The image, the object in it, the reference, the category, the text to be read (or none)."""


def write_rendered(
    folder: str, count: int, seed: int = 0, photos: Sequence[str] = (), *, referenced: bool = False
) -> None:
    """Write images and `annotations.jsonl` of `count` clean cases; equal arguments give equal bytes.

    Args:
        photos: Folders with further photos and fonts; those of the held-out side are left out of them.
        referenced: Every case has a reference, instead of every other one.
    """
    library = assets.library("train", tuple(Path(name) for name in photos))
    lines = []
    for number in range(0, 2 * count, 2) if referenced else range(count):
        row, files = draw_case(number, library, np.random.default_rng((31, seed, number)))
        for name, content in files.items():
            storage.write(storage.join(folder, name), content)
        lines.append(json.dumps(row | {"format": "jpeg" if number % 3 == 2 else "png"}))
    storage.write(storage.join(folder, "annotations.jsonl"), "\n".join(lines).encode())


def draw_case(
    number: int, library: assets.Library, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The annotation and the files of case `number`; even ones have a reference.

    Raises:
        ItemError: `case.flat` where the photos show nothing.
    """
    with_reference = number % 2 == 0
    for _ in range(_TRIES):
        draw = _part_of_photo if rng.random() < _PHOTO_SHARE else _printed_mark
        image, shape, reference, category, text = draw(library, with_reference, rng)
        box = _box_of(shape)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if min(box[2] - box[0], box[3] - box[1]) >= 32 and grey[shape].std() >= _LEAST_CONTRAST:
            break
    else:
        raise ItemError("case.flat", f"case {number}: {_TRIES} parts of photos in a row show nothing; give others")
    name = f"rendered-{number:05d}"
    files = {f"{name}.png": encode_png(image), f"{name}.mask.png": encode_png(shape)}
    row: dict[str, Any] = {
        "case_id": name,
        "image": f"{name}.png",
        "object_mask": f"{name}.mask.png",
        "object_box": box,
        "setting": "reference" if with_reference else "free",
        "category": category,
        "instruction": f'Refine the text "{text}" in the masked region' if text else "Refine the masked region",
        "text": text,
        "source": "rendered from training fonts and photos",
        "licence": "see data/synthetic/assets/LICENSES.md",
    }
    if reference is not None:
        row["reference"], files[f"{name}.reference.png"] = f"{name}.reference.png", encode_png(reference)
    return row, files


def _part_of_photo(library: assets.Library, with_reference: bool, rng: np.random.Generator) -> Scene:
    """An ellipse or box of a photo; its reference is the same photo in another pose and light."""
    image, _ = grounds.photo_crop(library, (SIDE_PX, SIDE_PX), rng)
    half = rng.uniform(24, 84, 2)
    centre = rng.uniform(half * 0.7, SIDE_PX - half * 0.7)
    shape = grounds.ellipse_or_box((SIDE_PX, SIDE_PX), centre, half, rng)
    reference = posed(image, _box_of(shape), rng) if with_reference else None
    return image, shape, reference, "product" if with_reference else "object", ""


def _printed_mark(library: assets.Library, with_reference: bool, rng: np.random.Generator) -> Scene:
    """A word on a plate, or a logo, printed on a photo; its reference is the same, printed on another ground."""
    written = rng.random() < 0.6
    text = "".join(_LETTERS[int(i)] for i in rng.integers(len(_LETTERS), size=int(rng.integers(3, 9))))
    font = library.fonts[int(rng.integers(len(library.fonts)))]
    sprite = typeset(text, font, rng) if written else logo(library, rng)[0]
    ground, _ = grounds.photo_crop(library, (SIDE_PX, SIDE_PX), rng)
    width = int(rng.uniform(80, 136))
    centre = rng.uniform(width * 0.6 + 8, SIDE_PX - width * 0.6 - 8, 2)
    image, shape = printed_on(sprite, ground, centre, width, rng)
    closed = cv2.morphologyEx(shape.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8)).astype(bool)
    reference = None
    if with_reference:
        plain = cv2.GaussianBlur(np.rot90(ground).copy(), (0, 0), 8)
        reference, _ = printed_on(sprite, plain, np.full(2, SIDE_PX / 2), round(width * 1.3), rng)
    category = "logo" if with_reference else "text" if written else "object"
    return image, closed, reference, category, text if written else ""


def _box_of(shape: Mask) -> Box:
    if not shape.any():
        return 0, 0, 0, 0
    rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
