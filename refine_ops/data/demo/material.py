"""The demo's material: four real photos with details damaged on purpose, and the manifest that asks to refine them.

Every kind of region, three file formats, with and without a reference. The undamaged photos are kept beside them, so
that the result can be measured. Photos and their licences: `LICENSES.md`.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from refine_ops.config import FocusSettings, ImageLimits
from refine_ops.data.stages.damages import DAMAGES
from refine_ops.image import read
from refine_ops.image.focus import margin_in_pixels, plan_crop
from refine_ops.image.paste import blend_mask, paste_back
from refine_ops.image.region import region_mask
from refine_ops.job.planning.manifest import SCHEMA
from refine_ops.model import tiny
from refine_ops.records import Box, Mask, Region, Scribble, U8Image

_PHOTOS: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Spot:
    """A detail to damage: where, how it is marked, what happens to it, and whether a reference shows it undamaged."""

    photo: str
    region_id: str
    prompt: str
    box: Box
    kind: str
    damage: tuple[tuple[str, float], ...]
    reference: bool


_SUFFIX: Final = {"astronaut": ".jpg", "chelsea": ".png", "coffee": ".webp", "rocket": ".jpg"}
_SPOTS: Final = (
    _Spot(
        "astronaut",
        "patch",
        "Refine the mission patch in the masked region using the reference.",
        (132, 342, 214, 426),
        "mask",
        (("down_up_sampling", 0.9),),
        True,
    ),
    _Spot(
        "astronaut",
        "badge",
        "Refine the name badge in the masked region using the reference.",
        (276, 336, 336, 380),
        "box",
        (("defocus_blur", 0.8),),
        True,
    ),
    _Spot(
        "astronaut",
        "shuttle",
        "Refine the shuttle in the masked region.",
        (366, 60, 466, 280),
        "box",
        (("down_up_sampling", 0.5),),
        False,
    ),
    _Spot(
        "chelsea",
        "eye",
        "Refine the eye in the masked region using the reference.",
        (130, 80, 214, 152),
        "mask",
        (("motion_blur", 0.9),),
        True,
    ),
    _Spot(
        "coffee",
        "spoon",
        "Refine the spoon in the masked region.",
        (322, 228, 408, 330),
        "box",
        (("defocus_blur", 0.5),),
        False,
    ),
    _Spot(
        "rocket",
        "rocket",
        "Refine the rocket in the masked region using the reference.",
        (304, 126, 338, 250),
        "scribble",
        (("down_up_sampling", 0.8),),
        True,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What a damaged region should look like: the clean photo and the region's mask M, for measuring."""

    item_id: str
    region_id: str
    reference: bool
    clean: U8Image
    damaged: U8Image
    mask: Mask


def make_demo(folder: Path) -> tuple[Path, list[Truth]]:
    """Write damaged photos, masks, references, clean photos and `manifest.parquet` below `folder`.

    Returns:
        The manifest, and the truth of every region.
    """
    for name in ("images", "masks", "references", "clean"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows, truths = [], []
    for photo, suffix in _SUFFIX.items():
        clean = np.asarray(Image.open(_PHOTOS / f"{photo}.jpg").convert("RGB"))
        Image.fromarray(clean).save(folder / "clean" / f"{photo}.png", compress_level=1)
        damaged, regions, masks = clean.copy(), [], []
        for spot in (s for s in _SPOTS if s.photo == photo):
            mask, region = _marked(spot, clean, folder)
            damaged = _damage(damaged, mask, spot)
            regions.append(region)
            masks.append((spot, mask))
        data = _encoded(damaged, suffix)
        (folder / "images" / f"{photo}{suffix}").write_bytes(data)
        seen = read.decode(data, name=photo, limits=ImageLimits()).rgb
        truths += [Truth(photo, spot.region_id, spot.reference, clean, seen, mask) for spot, mask in masks]
        rows.append({"item_id": photo, "image": f"images/{photo}{suffix}", "category": "demo", "regions": regions})
    manifest = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), manifest)
    return manifest, truths


def _marked(spot: _Spot, clean: U8Image, folder: Path) -> tuple[Mask, dict[str, Any]]:
    """M of a spot, and its region as the manifest says it."""
    size = (clean.shape[1], clean.shape[0])
    row: dict[str, Any] = {"region_id": spot.region_id, "prompt": spot.prompt}
    x0, y0, x1, y1 = spot.box
    if spot.kind == "box":
        row["box"] = list(spot.box)
        mask = region_mask(Region(spot.region_id, spot.prompt, box=spot.box), size, None, ImageLimits())
    elif spot.kind == "scribble":
        middle, width = (x0 + x1) / 2, float(x1 - x0)
        strokes = (((middle, y0 + width / 2), (middle, y1 - width / 2)),)
        row["scribble"] = {"strokes": strokes, "width": width}
        region = Region(spot.region_id, spot.prompt, scribble=Scribble(strokes, width))
        mask = region_mask(region, size, None, ImageLimits())
    else:
        drawn = np.zeros((size[1], size[0]), np.uint8)
        centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
        cv2.ellipse(drawn, centre, axes, 0, 0, 360, 255, cv2.FILLED)
        row["mask"] = f"masks/{spot.photo}-{spot.region_id}.png"
        Image.fromarray(drawn).save(folder / row["mask"])
        mask = drawn > 0
    if spot.reference:
        row["reference"] = f"references/{spot.photo}-{spot.region_id}.png"
        _reference(clean, mask).save(folder / row["reference"], compress_level=1)
    return mask, row


def _reference(clean: U8Image, mask: Mask) -> Image.Image:
    """The undamaged detail as an earlier shot of the same product would show it: like framing, other light."""
    margin = margin_in_pixels((clean.shape[1], clean.shape[0]), FocusSettings().margin, "image_1mp")
    x0, y0, x1, y1 = plan_crop(mask, margin_px=margin, grid_px=tiny.GRID_PX, pixels=tiny.VAE_PIXELS).crop
    relit = 255 * (clean[y0:y1, x0:x1].astype(np.float32) / 255) ** 0.92
    return Image.fromarray(np.clip(np.rint(relit), 0, 255).astype(np.uint8))


def _damage(image: U8Image, mask: Mask, spot: _Spot) -> U8Image:
    rng = np.random.default_rng([*spot.region_id.encode()])
    damaged = image
    for name, strength in spot.damage:
        damaged = DAMAGES[name](damaged, mask, strength, rng)
    return paste_back(image, damaged, blend_mask(mask))


def _encoded(image: U8Image, suffix: str) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(image)
    if suffix == ".jpg":
        picture.save(out, "JPEG", quality=92, subsampling="4:2:0")
    elif suffix == ".webp":
        picture.save(out, "WEBP", lossless=True)
    else:
        picture.save(out, "PNG")
    return out.getvalue()
