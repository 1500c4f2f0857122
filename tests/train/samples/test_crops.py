"""A training crop is what a run gives the model for the same picture, region and settings."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from refine_ops.chain import Refinement, finish_shown
from refine_ops.config import FocusSettings, ImageLimits, PasteSettings, RefineSettings
from refine_ops.model.presets import PRESETS
from refine_ops.opened import open_item
from refine_ops.records import Item, Patch, Region
from refine_ops.train.config import CropSettings
from refine_ops.train.samples.dataset import TrainingSample, make_crop

TINY = PRESETS["tiny"]
FORMATS = {
    "png": {"format": "PNG"},
    "jpeg": {"format": "JPEG", "quality": 90, "subsampling": 2},
    "jpeg-turned": {"format": "JPEG", "quality": 90, "subsampling": 1, "orientation": 6},
    "webp": {"format": "WEBP", "lossless": True},
}


class Sizes:
    """What `Refinement` asks of a refiner before the model runs."""

    grid_px, focus_pixels, reference = TINY.grid_px, TINY.focus_pixels, TINY.reference
    tile_zoom = 0.0


def _file(image: np.ndarray, orientation: int = 0, **save: object) -> bytes:
    sink = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(image).save(sink, exif=exif.tobytes(), **save)
    return sink.getvalue()


def _mask_file() -> bytes:
    """A thick diagonal stroke and a dot away from it, on 180 x 140 px upright."""
    mask = np.zeros((140, 180), np.uint8)
    for i in range(20):
        mask[40 + i : 80 + i, 50 + 2 * i : 90 + 2 * i] = 255
    mask[30:34, 120:126] = 255
    return _file(mask, format="PNG")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_training_crop_is_the_runs_conditioning(kind: str) -> None:
    size = (180, 140, 3) if kind == "jpeg-turned" else (140, 180, 3)
    data = _file(np.random.default_rng(1).integers(0, 256, size).astype(np.uint8), **FORMATS[kind])
    files = {"i": data, "t": data, "m": _mask_file()}
    sample = TrainingSample("s", "train", "i", "t", "m", None, "restore the label", ())
    seen = set()
    for confine, policy, margin in itertools.product(("none", "region"), ("mask", "box"), (0, 12, 64)):
        looks = FocusSettings(margin=margin, margin_unit="native" if margin == 12 else "image_1mp")
        paste = PasteSettings(confine=confine)
        item = Item("s", "i", "i", (Region("r", sample.prompt, mask="m", paste=policy),), row=0)
        settings = RefineSettings(focus=looks, paste=paste)
        run = Refinement(item, open_item(item, files, settings), settings, Sizes()).conditioning()
        crop = CropSettings(geometry=looks, paste=paste, paste_policy=policy)
        made = make_crop(sample, files, crop, TINY, ImageLimits()).conditioning
        for name in ("image", "mask", "support"):
            assert np.array_equal(getattr(run, name), getattr(made, name)), (name, confine, policy, margin)
        assert made.prompt == run.prompt
        seen.add((made.image.shape, made.support.tobytes()))
    assert len(seen) == 12, "a setting changed nothing"


def test_a_confined_blend_reaches_nowhere_and_the_outcome_says_so() -> None:
    data = _file(np.random.default_rng(1).integers(0, 256, (140, 180, 3)).astype(np.uint8), format="PNG")
    item = Item("s", "i", "i", (Region("r", "p", mask="m"),), row=0)
    reached = {}
    for confine in ("none", "region"):
        settings = RefineSettings(paste=PasteSettings(confine=confine))
        refinement = Refinement(item, open_item(item, {"i": data, "m": _mask_file()}, settings), settings, Sizes())
        seen = refinement.conditioning().image
        patch = 1 - seen.astype(np.float32) / 255
        refinement.absorb(Patch(patch, np.ones(seen.shape[:2], bool), batch_size=1))
        reached[confine] = finish_shown(refinement).regions[0].reach_px
    assert reached == {"none": 8, "region": 0}
