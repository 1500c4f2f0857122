"""Degradation: model-free damage in its mix and scale, and diffusers inpainting by name on small random checkpoints."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.data.config import DiffusersInpainting, ModelFree
from refine_ops.data.stages.damages import DAMAGES
from refine_ops.data.stages.degrade import ModelFreeDegrader
from refine_ops.data.stages.inpaint import DiffusersDegrader
from refine_ops.data.stages.sample import REACH_PX, change_over, damage
from refine_ops.errors import JobError
from refine_ops.records import Mask, U8Image
from tests.support import tiny_checkpoints

torch.set_num_threads(1)


def scene(height: int = 70, width: int = 90) -> tuple[U8Image, Mask]:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    return image, mask


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(20, 90), st.integers(20, 90))
def test_pasted_damage_never_reaches_past_the_support(seed: int, height: int, width: int) -> None:
    """Against the worst damage there is: every pixel of the crop replaced by noise."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    mask[y : y + int(rng.integers(1, 12)), x : x + int(rng.integers(1, 12))] = True
    ys, xs = np.nonzero(mask)
    margin = int(rng.integers(REACH_PX, 20))
    box = max(0, xs.min() - margin), max(0, ys.min() - margin), min(width, xs.max() + 1 + margin), ys.max() + 1 + margin
    box = (box[0], box[1], box[2], min(height, box[3]))
    noise = rng.integers(0, 256, (box[3] - box[1], box[2] - box[0], 3), np.uint8)
    input_, support = damage(target, mask, noise, box)
    grown = np.zeros_like(mask)
    for dy in range(-REACH_PX, REACH_PX + 1):
        for dx in range(-REACH_PX, REACH_PX + 1):
            shifted = ys + dy, xs + dx
            keep = (shifted[0] >= 0) & (shifted[0] < height) & (shifted[1] >= 0) & (shifted[1] < width)
            grown[shifted[0][keep], shifted[1][keep]] = True
    np.testing.assert_array_equal(support, grown)
    np.testing.assert_array_equal(input_[~support], target[~support])
    np.testing.assert_array_equal(input_[mask], noise[mask[box[1] : box[3], box[0] : box[2]]])


def test_the_mix_is_what_was_asked_for_without_the_excluded() -> None:
    degrader = ModelFreeDegrader(
        ModelFree(mix={"noise": 3, "ghosting": 1, "local_warp": 9}, most_steps=1), ["local_warp"]
    )
    image, mask = scene()
    drawn = Counter(degrader.degrade(image, mask, "", np.random.default_rng(i)).families for i in range(200))
    assert set(drawn) == {("noise",), ("ghosting",)}
    assert 0.65 < drawn[("noise",)] / 200 < 0.85


def test_unknown_or_empty_mixes_are_refused() -> None:
    with pytest.raises(JobError, match="blurr"):
        ModelFreeDegrader(ModelFree(mix={"blurr": 1}), [])
    with pytest.raises(JobError, match="none that is left"):
        ModelFreeDegrader(ModelFree(), DAMAGES)


def test_a_large_region_is_damaged_coarsely_too() -> None:
    """A blur of a few pixels hardly shows on a region of 1,200: the scale must reach up to its size."""
    y, x = np.mgrid[:1200, :1200]
    image = np.repeat((127 + 120 * np.sin(x / 12) * np.sin(y / 12))[:, :, None], 3, axis=2).astype(np.uint8)
    mask = np.zeros((1200, 1200), bool)
    mask[300:900, 300:900] = True
    degrader = ModelFreeDegrader(ModelFree(mix={"defocus_blur": 1}, most_steps=1), [])
    found = [degrader.degrade(image, mask, "", np.random.default_rng(i)) for i in range(12)]
    scales = [f.steps[0]["scale"] for f in found]
    assert all(1 <= s <= 1200 / 256 for s in scales)
    assert max(scales) > 3
    changes = [change_over(mask, f.pixels, image) for f in found]
    assert max(changes) > 10 > min(changes)


@pytest.mark.parametrize(
    ("build", "pipeline", "options"),
    [
        (tiny_checkpoints.stable_diffusion, "StableDiffusionInpaintPipeline", {"strength": 0.9, "grid_px": 8}),
        (tiny_checkpoints.flux_fill, "FluxFillPipeline", {"guidance": 30.0, "grid_px": 8}),
        pytest.param(
            tiny_checkpoints.qwen_image_edit,
            "QwenImageEditInpaintPipeline",
            {"guidance": 2.0, "grid_px": 16},
            marks=pytest.mark.slow,  # this pipeline works at 1024^2 whatever the size asked for
        ),
    ],
)
def test_inpainting_pipelines_by_name(tmp_path: Path, build: object, pipeline: str, options: dict[str, float]) -> None:
    folder = build(tmp_path / "Some-Model")  # type: ignore[operator]
    degrader = DiffusersDegrader(DiffusersInpainting(model=str(folder), steps=2, pixels=64 * 64, **options))
    image, mask = scene()
    one, again, other = (degrader.degrade(image, mask, "a cup", np.random.default_rng(s)) for s in (1, 1, 2))
    assert pipeline in degrader.name
    assert one.pixels.shape == image.shape
    assert one.pixels.dtype == np.uint8
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert (one.pixels[mask] != other.pixels[mask]).any(), "the seed must matter"
    assert change_over(mask, one.pixels, image) > 1
    assert one.families == ("inpaint-some-model",)
    assert one.steps[0]["steps"] == 2


def test_a_checkpoint_that_cannot_inpaint_is_refused(tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "ddim")
    with pytest.raises(JobError, match="no inpainting pipeline for DDIMPipeline"):
        DiffusersDegrader(DiffusersInpainting(model=str(tmp_path / "ddim")))
