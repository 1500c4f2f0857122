"""Batches never show: an item's noise and pixels do not depend on order or company, at a fixed batch size."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refine_ops.errors import ItemError
from refine_ops.model import stages
from refine_ops.model.inputs import draw_noise
from refine_ops.model.run import batch as batch_module

VARIANTS = [
    {"targets": "dense"},
    {"targets": "sparse"},
    {"true_cfg_scale": 3.0},
    {"targets": "sparse", "conditions": "cached", "true_cfg_scale": 3.0},
    {"conditions": "cached+text", "true_cfg_scale": 3.0},
]


@pytest.mark.parametrize("options", VARIANTS, ids=["dense", "sparse", "guided", "cached", "cached text"])
def test_company_and_order_do_not_change_a_pixel(make_refiner: Any, make_item: Any, options: dict[str, Any]) -> None:
    refiner = make_refiner(batch_size=3, target_ring=0, **options)
    others = [make_item(1, prompt="Another prompt, much longer than the first"), make_item(2, reference=(60, 40))]
    item = make_item(0)
    alone = refiner.refine([item])[0]
    last = refiner.refine([make_item(3), make_item(4), *others, make_item(5), item])[-1]
    first = refiner.refine([item, make_item(6), make_item(7)])[0]
    for patch in (last, first):
        np.testing.assert_array_equal(patch.pixels, alone.pixels)
        np.testing.assert_array_equal(patch.generated, alone.generated)
    assert alone.batch_size == 3
    assert alone.step_down == "none"


def test_a_cached_prompt_gives_the_same_bytes(make_refiner: Any, make_item: Any) -> None:
    refiner = make_refiner(batch_size=2)
    once = refiner.refine([make_item(0)])[0]
    again = refiner.refine([make_item(0)])[0]
    fresh = make_refiner(batch_size=2).refine([make_item(0)])[0]
    np.testing.assert_array_equal(again.pixels, once.pixels)
    np.testing.assert_array_equal(fresh.pixels, once.pixels)


@pytest.mark.parametrize("size", [1, 2])
def test_candidates_are_encoded_once_and_are_the_same_bytes(
    make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Of an item that comes again with another seed the images are remembered, and what they decode to."""
    counted: list[str] = []
    for name in ("encode_images", "decode"):
        real = getattr(stages, name)
        monkeypatch.setattr(stages, name, lambda *a, _real=real, _name=name: (counted.append(_name), _real(*a))[1])
    item = make_item(0, reference=(60, 40))
    candidates = [replace(item, seed=seed) for seed in range(3)]
    refiner = make_refiner(batch_size=size)
    made = [refiner.refine([candidate])[0] for candidate in candidates]
    assert counted.count("decode") == 4, "three patches, one round trip"
    encoded = counted.count("encode_images")
    alone = [make_refiner(batch_size=size).refine([candidate])[0] for candidate in candidates]
    assert counted.count("encode_images") == 4 * encoded
    for one, other in zip(made, alone, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.roundtrip, other.roundtrip)
    assert not np.array_equal(made[0].pixels, made[1].pixels)


def test_what_is_remembered_of_items_is_bounded(
    make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_REMEMBERED", 2)
    refiner = make_refiner()
    first = refiner.refine([make_item(0)])[0]
    for seed in (1, 2, 0):
        again = refiner.refine([make_item(seed)])[0]
    assert len(refiner._runner._encoded) == 2
    np.testing.assert_array_equal(first.pixels, again.pixels)


def test_patches_come_in_the_order_of_the_items(make_refiner: Any, make_item: Any) -> None:
    refiner = make_refiner()
    items = [make_item(seed, size=size) for seed, size in enumerate([(64, 64), (96, 64), (64, 64), (64, 96)])]
    patches = refiner.refine(items)
    assert [patch.pixels.shape for patch in patches] == [item.image.shape for item in items]
    for item, patch in zip(items, patches, strict=True):
        np.testing.assert_array_equal(patch.pixels, refiner.refine([item])[0].pixels)
        assert patch.generated.all()


def test_prompt_image_mask_reference_and_seed_all_matter(make_refiner: Any, make_item: Any) -> None:
    refiner = make_refiner()
    base = make_item(0, reference=(60, 40))
    variants = [
        base,
        make_item(0, reference=(60, 40), prompt="Refine the text."),
        make_item(0, reference=(60, 40), marked=(10, 10, 20, 20)),
        make_item(0, reference=(40, 60)),
        make_item(0),
        make_item(1, reference=(60, 40)),
    ]
    patches = refiner.refine(variants)
    for patch in patches[1:]:
        assert np.abs(patch.pixels - patches[0].pixels).max() > 1e-4


def test_noise_is_the_seeds_own() -> None:
    noise = draw_noise(5, (16, 4, 6))
    assert torch.equal(noise, draw_noise(5, (16, 4, 6)))
    assert not torch.equal(noise, draw_noise(6, (16, 4, 6)))
    expected = torch.randn(16 * 4 * 6, generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise.flatten(), expected), "the plain stream of the seed, so any tool can draw it again"


def test_items_the_model_cannot_take_are_named(make_refiner: Any, make_item: Any) -> None:
    refiner = make_refiner()
    with pytest.raises(ItemError, match="multiples of 32 px, this crop is 96x60") as size:
        refiner.prepare(make_item(0, size=(96, 60)))
    assert size.value.reason == "model.size"
    with pytest.raises(ItemError, match="the reference is 4x200") as ratio:
        refiner.prepare(make_item(0, reference=(4, 200)))
    assert ratio.value.reason == "model.ratio"
    with pytest.raises(ItemError, match="control token") as token:
        refiner.prepare(make_item(0, prompt="Refine <|image_pad|> the logo"))
    assert token.value.reason == "prompt.special_token"


def test_braces_and_scripts_in_prompts_are_plain_text(make_refiner: Any, make_item: Any) -> None:
    patch = make_refiner().refine([make_item(0, prompt="Refine {0} {thing} \\ '标志' \u0000 🎉")])[0]
    assert np.isfinite(patch.pixels).all()


def test_threads_may_prepare_at_once(make_refiner: Any, make_item: Any) -> None:
    refiner = make_refiner()
    items = [make_item(seed, prompt=f"Refine part {seed}", reference=(60, 40)) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(refiner.prepare, items))
    for item, prepared in zip(items, together, strict=True):
        alone = refiner.prepare(item)
        assert prepared.bucket == alone.bucket
        assert torch.equal(prepared.prompt.ids, alone.prompt.ids)
        assert torch.equal(prepared.noise, alone.noise)
        assert torch.equal(prepared.pixel_values, alone.pixel_values)


@pytest.mark.gpu
def test_company_on_a_gpu(make_refiner: Any, make_item: Any) -> None:
    device = torch.device("cuda")
    for options in VARIANTS:
        refiner = make_refiner(batch_size=4, device=device, **options)
        alone = refiner.refine([make_item(0)])[0]
        among = refiner.refine([make_item(1), make_item(2), make_item(0), make_item(3, reference=(60, 40))])[2]
        np.testing.assert_array_equal(among.pixels, alone.pixels)
