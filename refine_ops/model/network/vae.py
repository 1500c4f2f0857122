"""The video VAE for single images: exact, without its time axis.

With one frame, a causal 3-D convolution sees zeros in the past, so only the kernel's last time tap contributes, and
nothing is ever read from the feature cache. A 2-D convolution with that tap gives the same image (within fp32 rounding,
6e-7) for about 0.4 times the work, forwards and backwards.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageResample


class OneFrameConv(QwenImageCausalConv3d):  # type: ignore[misc]  # diffusers is untyped
    """`QwenImageCausalConv3d` for `(B, C, 1, h, w)`; same parameters until stripped, so weights load and save as ever.

    A subclass, so that the VAE counts it among the convolutions that it caches features for when it tiles.
    """

    weight: torch.nn.Parameter

    def strip(self) -> None:
        """Keep the last time tap alone; no way back to video."""
        self.weight = torch.nn.Parameter(self.weight.detach()[:, :, -1], requires_grad=False)

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve; what the cache holds is not looked at, for one frame has no past."""
        weight = self.weight if self.weight.dim() == 4 else self.weight[:, :, -1]
        # Channels last: 1.5x faster on CPUs, and what tensor cores want.
        frame = x.squeeze(2).contiguous(memory_format=torch.channels_last)
        spatial = (self._padding[2], self._padding[0])
        return F.conv2d(frame, weight, self.bias, self.stride[1:], spatial).unsqueeze(2)


class OneFrameResample(QwenImageResample):  # type: ignore[misc]
    """`QwenImageResample` for `(B, C, 1, h, w)` that keeps channels last, and so does the block after it."""

    def forward(self, x: torch.Tensor, feat_cache: Any = None, feat_idx: Any = None) -> torch.Tensor:
        if feat_cache is not None:
            cached: torch.Tensor = super().forward(x, feat_cache, feat_idx)
            return cached
        frame = x.squeeze(2).contiguous(memory_format=torch.channels_last)
        if len(frame) == 1:
            # Diffusers' reshapes leave any stride to a batch of one; padding and enlarging take it for channels first.
            frame = frame[0].permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        resampled: torch.Tensor = self.resample(frame)
        return resampled.unsqueeze(2)


_ONE_FRAME: Final = {QwenImageCausalConv3d: OneFrameConv, QwenImageResample: OneFrameResample}
_VIDEO: Final = {one_frame: video for video, one_frame in _ONE_FRAME.items()}


def as_one_frame(vae: Any) -> Any:
    """Switch every causal convolution and resampling of `vae` to its one-frame form, in place."""
    return _switched(vae, _ONE_FRAME)


def as_video(vae: Any) -> Any:
    """Undo `as_one_frame`, in place."""
    return _switched(vae, _VIDEO)


def encode(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Most likely latents, not normalised: `(B, 3, H, W)` in [-1, 1] to `(B, C, h, w)`; for `as_one_frame` VAEs."""
    moments = vae.quant_conv(vae.encoder(images.unsqueeze(2)))
    latents: torch.Tensor = moments.squeeze(2)[:, : vae.config.z_dim]
    return latents


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Images `(B, 3, H, W)`, not clamped, of latents `(B, C, h, w)`, not normalised; for `as_one_frame` VAEs."""
    images: torch.Tensor = vae.decoder(vae.post_quant_conv(latents.unsqueeze(2))).squeeze(2)
    return images


class OneFrameVae(AutoencoderKLQwenImage):  # type: ignore[misc]
    """An AutoencoderKLQwenImage that takes over another's weights, stripped, and accepts one frame only."""

    @classmethod
    def of(cls, vae: Any) -> "OneFrameVae":
        """Convert `vae`; its modules are taken, so the original must not be used afterwards."""
        for module in as_one_frame(vae).modules():
            if isinstance(module, OneFrameConv):
                module.strip()
        with torch.device("meta"):
            converted: OneFrameVae = cls.from_config(vae.config)
        for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"):
            part = getattr(vae, name)
            # The convolutions that resample and those of the attention too: one NCHW among them costs two transposes.
            setattr(converted, name, part.to(memory_format=torch.channels_last))
        converted.eval()
        return converted

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_tiling:
            tiled: torch.Tensor = super()._encode(x)
            return tiled
        moments: torch.Tensor = self.quant_conv(self.encoder(x))
        return moments

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        if self.use_tiling:
            return super()._decode(z, return_dict=return_dict)
        images = self.decoder(self.post_quant_conv(z)).clamp(-1.0, 1.0)
        return _Decoded(images) if return_dict else (images,)


def _switched(vae: Any, classes: dict[Any, Any]) -> Any:
    for module in vae.modules():
        module.__class__ = classes.get(type(module), type(module))
    return vae


class _Decoded:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample
