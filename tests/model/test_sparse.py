"""Sparse targets: the right tokens, at their own positions, and exactly the dense result where they are all tokens."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.network import transformer as fast
from refine_ops.model.presets import Preset, apply_overrides
from refine_ops.model.sparse import LEVELS, choose_tokens, generated_mask

TOKEN_PX = 16


def chebyshev(touched: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Distance of every token to the nearest touched one, by comparing all pairs."""
    ys, xs = np.nonzero(touched)
    rows, columns = np.indices(touched.shape)
    distances = np.maximum(abs(rows[..., None] - ys), abs(columns[..., None] - xs))
    return np.asarray(distances.min(axis=-1))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    ring=st.integers(0, 4),
    points=st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=4),
)
def test_choice_is_the_support_its_ring_and_the_next_nearest(
    rows: int, columns: int, ring: int, points: list[tuple[float, float]]
) -> None:
    support = np.zeros((rows * TOKEN_PX, columns * TOKEN_PX), bool)
    for y, x in points:
        support[int(y * support.shape[0]), int(x * support.shape[1])] = True
    touched = support.reshape(rows, TOKEN_PX, columns, TOKEN_PX).any(axis=(1, 3))
    distance = chebyshev(touched).reshape(-1)
    index = choose_tokens(support, (rows, columns), ring).numpy()
    assert (np.diff(index) > 0).all(), "raster order, each once"
    assert set(np.flatnonzero(distance <= ring)) <= set(index), "support and ring are all there"
    left_out = np.setdiff1d(np.arange(rows * columns), index)
    if len(left_out):
        assert distance[index].max() <= distance[left_out].min(), "what fills up is nearest"
    assert len(index) <= (distance <= ring).sum() + rows * columns / LEVELS
    generated = generated_mask(torch.from_numpy(index), (rows, columns), (columns * TOKEN_PX, rows * TOKEN_PX))
    assert (generated >= support).all()
    assert generated.sum() == len(index) * TOKEN_PX**2


def test_an_empty_support_still_runs() -> None:
    assert len(choose_tokens(np.zeros((64, 64), bool), (4, 4), 2)) >= 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_equals_dense_exactly_where_the_support_is_the_crop(make_refiner: Any, make_item: Any, batch_size: int) -> None:
    item = make_item(0, reference=(60, 40), marked=(0, 0, 96, 64))
    dense = make_refiner(targets="dense", batch_size=batch_size).refine([item])[0]
    sparse = make_refiner(targets="sparse", batch_size=batch_size).refine([item])[0]
    np.testing.assert_array_equal(sparse.pixels, dense.pixels)
    assert sparse.generated.all()


def test_the_rest_is_the_encoded_crop(make_refiner: Any, make_item: Any) -> None:
    """Far from the tokens denoised, the patch is the crop through the VAE and back: no noise, no drift."""
    item = make_item(0, size=(512, 64), marked=(0, 0, 16, 16))
    refiner = make_refiner(targets="sparse", target_ring=0)
    patch = refiner.refine([item])[0]
    assert 0 < patch.generated.mean() < 0.1
    dense = make_refiner(targets="dense").refine([item])[0]
    other = refiner.refine([dataclasses.replace(item, seed=1)])[0]
    far = slice(400, None)
    spread = np.abs(other.pixels - patch.pixels)
    assert spread[:, :16].mean() > 0.05
    assert spread[:, far].mean() < 0.005, "only the decoder's one global attention reaches this far"
    assert np.abs(dense.pixels - patch.pixels)[:, far].mean() > 0.01


@torch.no_grad()
def test_positions_stay_those_of_the_full_grid() -> None:
    """Oracle: diffusers' forward pass over the chosen tokens alone, its position module answering for their places."""
    model = random_pipeline(seed=3, zero_cond_t=True).transformer
    generator = torch.Generator().manual_seed(0)
    shapes, index = [(1, 4, 6), (1, 4, 6)], torch.tensor([3, 4, 9, 10, 22])
    text, condition = torch.randn(1, 7, 32, generator=generator), torch.randn(1, 24, 64, generator=generator)
    x, timestep = torch.randn(1, 5, 64, generator=generator), torch.tensor([0.6])
    context = fast.context(model, text, None, condition, shapes, index[None])
    ours = fast.velocity(model, fast.block_forward, fast.modulations(model, timestep), 0, context, x)
    image, words = model.pos_embed([shapes], max_txt_seq_len=7, device=torch.device("cpu"))
    chosen = torch.cat([image[index], image[24:]])
    model.pos_embed.forward = lambda *args, **kwargs: (chosen, words)
    theirs = model(
        hidden_states=torch.cat([x, condition], dim=1), encoder_hidden_states=text, timestep=timestep,
        img_shapes=[[(1, 1, 5), (1, 4, 6)]], return_dict=False,
    )[0][:, :5]  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_mask_image_may_be_left_out_or_smaller(make_refiner: Any, make_item: Any) -> None:
    item = make_item(0, size=(128, 128))
    images = {}
    for name, options in {
        "released": {},
        "vlm": {"mask_image": "vlm"},
        "none": {"mask_image": "none"},
        "small": {"mask_pixels": 64 * 64},
    }.items():
        bucket = make_refiner(**options).prepare(item).bucket
        images[name] = (bucket.images, len(bucket.thumbnails))
    assert images["released"] == (((128, 128), (128, 128)), 2)
    assert images["vlm"] == (((128, 128),), 2)
    assert images["none"] == (((128, 128),), 1)
    assert images["small"] == (((128, 128), (64, 64)), 2)
    patch = make_refiner(targets="sparse", mask_image="none").refine([item])[0]
    assert np.isfinite(patch.pixels).all()


@pytest.mark.parametrize("wish", [{"targets": "sparse"}, {"compile": True}, {"fp8": True}])
def test_reference_speed_refuses_what_diffusers_does_not_do(wish: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="set speed 'fast'"):
        apply_overrides(Preset(source="x"), ModelSettings(speed="reference", **wish))
