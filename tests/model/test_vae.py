"""The one-frame VAE equals diffusers' video VAE on single images, tiled or not."""

import copy

import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from refine_ops.model import stages
from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.network.vae import OneFrameConv, OneFrameVae, as_one_frame, as_video


def wide_vae() -> AutoencoderKLQwenImage:
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[True, False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    ).eval()  # fmt: skip


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("make", [lambda: random_pipeline(seed=3).vae, wide_vae], ids=["8x", "4x"])
@torch.no_grad()
def test_equals_the_video_vae(make: object, tiled: bool) -> None:
    assert callable(make)
    video = make()
    image = OneFrameVae.of(copy.deepcopy(video))
    if tiled:
        for vae in (video, image):
            vae.enable_tiling(64, 64, 48, 48)
    pictures = torch.randint(0, 256, (3, 3, 80, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = stages.encode_images(video, pictures)
    torch.testing.assert_close(stages.encode_images(image, pictures), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(stages.decode(image, latents), stages.decode(video, latents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_every_convolution_runs_channels_last(batch: int) -> None:
    vae = OneFrameVae.of(wide_vae())
    names = {module: name for name, module in vae.named_modules()}
    others = []

    def look(module: torch.nn.Module, _given: object, made: torch.Tensor) -> None:
        if made.stride(1) != 1:
            others.append(names[module])

    for module, name in names.items():
        if isinstance(module, torch.nn.Conv2d | OneFrameConv) and "time_conv" not in name:
            assert module.weight.is_contiguous(memory_format=torch.channels_last), name
            module.register_forward_hook(look)
    latents = vae.encode(torch.randn(batch, 3, 1, 80, 112)).latent_dist.mode()
    vae.decode(latents)
    assert others == []


@torch.no_grad()
def test_the_way_back_to_video_keeps_the_weights() -> None:
    vae = wide_vae()
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    classes = [type(module) for module in vae.modules()]
    as_one_frame(vae)
    assert [type(module) for module in vae.modules()] != classes
    as_video(vae)
    assert [type(module) for module in vae.modules()] == classes
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


@torch.no_grad()
def test_tiling_changes_the_picture_so_the_step_down_is_worth_recording() -> None:
    vae = OneFrameVae.of(wide_vae())
    latents = torch.randn(1, 4, 20, 28, generator=torch.Generator().manual_seed(0))
    whole = stages.decode(vae, latents)
    vae.enable_tiling(64, 64, 48, 48)
    assert (stages.decode(vae, latents) - whole).abs().max() > 1e-4


def test_pack_and_unpack_are_inverse_and_ordered_like_the_pipeline() -> None:
    from diffusers import QwenImageEditPlusPipeline as Pipeline

    latents = torch.randn(2, 16, 6, 10)
    packed = stages.pack(latents)
    assert torch.equal(packed, Pipeline._pack_latents(latents[:, :, None], 2, 16, 6, 10))
    assert torch.equal(stages.unpack(packed, 6, 10), latents)
