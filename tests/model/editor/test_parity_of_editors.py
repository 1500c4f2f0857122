"""The oracle is the class's own call, written out per class: through our chain every patch equals it bit for bit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import diffusers.pipelines.longcat_image.pipeline_longcat_image_edit as longcat
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from refine_ops.chain import refine_image
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image.focus import model_shapes
from refine_ops.model.editor.call import own_size
from refine_ops.model.open import open_refiner
from refine_ops.model.presets.table import ONE_MP, TABLE
from refine_ops.records import Conditioning, Patch, Refiner
from tests.model.editor.conftest import SMALL_PX, Editors, a_crop, an_item

CPU = torch.device("cpu")
Given = dict[str, Any]


def _klein(item: Conditioning, image: Image.Image, mask: Image.Image) -> Given:
    pages = [Image.fromarray(page) for page in (item.reference, *item.more) if page is not None]
    return {"image": [image, *pages], "guidance_scale": 4.0, "height": image.height, "width": image.width}


def _kontext(item: Conditioning, image: Image.Image, mask: Image.Image) -> Given:
    area = {"height": image.height, "width": image.width, "max_area": image.width * image.height}
    guided = {"guidance_scale": 2.5, "true_cfg_scale": 2.0, "negative_prompt": "blurred"}
    return {"image": image, "_auto_resize": False, **area, **guided}


def _inpaint(item: Conditioning, image: Image.Image, mask: Image.Image) -> Given:
    page = {} if item.reference is None else {"image_reference": Image.fromarray(item.reference)}
    return {"mask_image": mask, "strength": 0.9, **page}


CALLS: dict[str, tuple[int, dict[str, Any], Callable[..., Given]]] = {
    "Flux2KleinPipeline": (3, {"guidance_scale": 4.0}, _klein),
    "Flux2KleinKVPipeline": (2, {}, lambda *a: {k: v for k, v in _klein(*a).items() if k != "guidance_scale"}),
    "Flux2KleinInpaintPipeline": (
        1,
        {"guidance_scale": 1.0, "strength": 0.9},
        lambda *a: {"image": a[1], "guidance_scale": 1.0, **_inpaint(*a)},
    ),
    "FluxKontextPipeline": (
        0,
        {"guidance_scale": 2.5, "true_cfg_scale": 2.0, "negative_prompt": "blurred"},
        _kontext,
    ),
    "FluxKontextInpaintPipeline": (
        1,
        {"guidance_scale": 2.5, "true_cfg_scale": 2.0, "negative_prompt": "blurred", "strength": 0.9},
        lambda *a: {**_kontext(*a), **_inpaint(*a)},
    ),
    "QwenImageEditPipeline": (
        0,
        {"true_cfg_scale": 2.0},
        lambda item, image, mask: {
            "image": image,
            "true_cfg_scale": 2.0,
            "negative_prompt": " ",
            "height": image.height,
            "width": image.width,
        },
    ),
    "QwenImageEditInpaintPipeline": (
        0,
        {"true_cfg_scale": 2.0, "strength": 0.9},
        lambda *a: {"image": a[1], "true_cfg_scale": 2.0, "negative_prompt": " ", **_inpaint(*a)},
    ),
    "QwenImage21Pipeline": (
        2,
        {"true_cfg_scale": 2.0, "negative_prompt": "blurred"},
        lambda item, image, mask: {
            "image": _klein(item, image, mask)["image"],
            "true_cfg_scale": 2.0,
            "negative_prompt": "blurred",
            "height": image.height,
            "width": image.width,
            "output_resolution": round((image.width * image.height) ** 0.5),
            "use_kv_cache": True,
        },
    ),
    "LongCatImageEditPipeline": (
        0,
        {"guidance_scale": 3.0, "negative_prompt": "blurred"},
        lambda item, image, mask: {"image": image, "guidance_scale": 3.0, "negative_prompt": "blurred"},
    ),
}
"""Class -> references it is given, settings, and its call for a crop."""


class Recorded:
    """A refiner that keeps what it was given and what it made."""

    def __init__(self, refiner: Refiner) -> None:
        self._refiner = refiner
        self.given: list[Conditioning] = []
        self.made: list[Patch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._refiner, name)

    def prepare(self, item: Conditioning) -> Any:
        self.given.append(item)
        return self._refiner.prepare(item)

    def refine_prepared(self, batch: Sequence[Any]) -> list[Patch]:
        self.made += (patches := self._refiner.refine_prepared(batch))
        return patches


def stock(folder: Path, name: str, item: Conditioning, arguments: Given, steps: int = 2) -> np.ndarray:
    """The class's own call on its own loading of the folder, the text encoder told which tokens are pictures."""
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    encoder = pipeline.text_encoder
    if isinstance(encoder, Qwen2_5_VLForConditionalGeneration):
        original = type(encoder).forward

        def with_token_types(input_ids: torch.Tensor, **rest: Any) -> Any:
            types = (input_ids == encoder.config.image_token_id).int()
            return original(encoder, input_ids=input_ids, mm_token_type_ids=types, **rest)

        encoder.forward = with_token_types
    generator = torch.Generator().manual_seed(item.seed)
    made = pipeline(
        prompt=item.prompt, num_inference_steps=steps, generator=generator, output_type="np", **arguments
    ).images[0]
    return np.asarray(made)[..., :3]


@pytest.mark.parametrize("name", CALLS)
def test_through_the_chain_a_patch_is_what_the_pipeline_itself_makes(
    name: str, editors: Editors, small_area: None
) -> None:
    """And the output is proven: `refine_image` raises where a pixel outside the allowed change differs."""
    references, settings, call = CALLS[name]
    model = ModelSettings(model=str(editors(name)), steps=2, **settings)
    refiner = Recorded(open_refiner(model, CPU))
    item, files = an_item(references)
    options = {"model": model, "focus": {"focus_pixels": SMALL_PX, "tiles": "none"}, "publish": "all"}
    finished = refine_image(item, files, refiner, RefineSettings.model_validate(options))
    (given,), (made,) = refiner.given, refiner.made
    image, mask = Image.fromarray(given.image), Image.fromarray(given.mask.astype(np.uint8) * 255)
    expected = stock(editors(name), name, given, call(given, image, mask))
    np.testing.assert_array_equal(made.pixels, expected)
    assert made.pixels.std() > 0.05, "a picture, not a plain surface"
    assert made.roundtrip is not None
    assert made.roundtrip.shape == made.pixels.shape
    assert np.array_equal(made.generated, given.mask if "Inpaint" in name else np.ones_like(given.mask))
    assert finished.verification.changed_px > 1000
    assert finished.verification.changed_outside_px == 0


def test_a_wide_crop_is_mirrored_to_the_one_area_a_class_knows_and_cut_back(
    editors: Editors, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "LongCatImageEditPipeline"
    rule = longcat.calculate_dimensions
    monkeypatch.setattr(longcat, "calculate_dimensions", lambda area, ratio: rule(area // 16, ratio))
    refiner: Any = open_refiner(ModelSettings(model=str(editors(name)), steps=1, guidance_scale=1.0), CPU)
    item = a_crop(size=(320, 192))
    work = refiner.prepare(item)
    x0, y0, x1, y1 = work.window
    assert work.picture.shape[:2] != item.image.shape[:2]
    np.testing.assert_array_equal(work.picture[y0:y1, x0:x1], item.image)
    (patch,) = refiner.refine_prepared([work])
    arguments = {"image": Image.fromarray(work.picture), "guidance_scale": 1.0}
    whole = stock(editors(name), name, item, arguments, steps=1)
    assert whole.shape[:2] == work.picture.shape[:2], "it resized nothing"
    np.testing.assert_array_equal(patch.pixels, whole[y0:y1, x0:x1])
    with pytest.raises(
        ItemError, match=r"LongCatImageEditPipeline always works at about 1,048,576 px.* of 160x96 would"
    ):
        refiner.prepare(a_crop(size=(160, 96)))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.sizing == "own"])
def test_every_crop_of_the_full_size_fits_into_one_that_such_a_class_keeps(name: str) -> None:
    for across, down, unit in model_shapes(TABLE[name].grid_px, ONE_MP):
        size = across * unit, down * unit
        wanted = own_size(getattr(diffusers, name), size)
        assert own_size(getattr(diffusers, name), wanted) == wanted
        assert wanted[0] >= size[0]
        assert wanted[1] >= size[1]
        assert wanted[0] * wanted[1] <= 1.25 * size[0] * size[1]


def test_every_class_of_the_table_is_held_against_its_own_call() -> None:
    """All but the one that our own refiner is held against (`test_parity.py`)."""
    assert TABLE.keys() - CALLS.keys() == {"QwenImageEditPlusPipeline"}
