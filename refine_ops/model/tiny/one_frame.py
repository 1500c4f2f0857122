"""The VAE on single images: its causal 3-D convolutions as the 2-D convolutions they amount to.

A causal convolution sees zeros in the frames before the first, so on one frame only its last time tap counts. This is
exact (float32 rounding aside) and several times faster, forwards and backwards.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d


class OneFrameConv(QwenImageCausalConv3d):  # type: ignore[misc]  # diffusers is untyped
    """`QwenImageCausalConv3d` for one frame; same parameters, so weights load and save as ever."""

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve `(b, c, 1, h, w)`; `cache_x` must be None, for one frame has no past."""
        spatial = (self._padding[2], self._padding[0])
        frame = x.squeeze(2).contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = F.conv2d(frame, self.weight[:, :, -1], self.bias, padding=spatial)
        return out.unsqueeze(2)


def as_one_frame(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Switch every causal convolution of `vae` to its one-frame form, in place."""
    for module in vae.modules():
        if type(module) is QwenImageCausalConv3d:
            module.__class__ = OneFrameConv
    return vae


def as_video(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Undo `as_one_frame`, in place."""
    for module in vae.modules():
        if type(module) is OneFrameConv:
            module.__class__ = QwenImageCausalConv3d
    return vae


def encode(vae: AutoencoderKLQwenImage, images: torch.Tensor) -> torch.Tensor:
    """Most likely latents, not normalised: `(b, 3, h, w)` in [-1, 1] to `(b, z, h / 4, w / 4)`."""
    moments = vae.quant_conv(vae.encoder(images.unsqueeze(2)))
    latents: torch.Tensor = moments.squeeze(2)[:, : vae.config.z_dim]
    return latents


def decode(vae: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    """Images `(b, 3, h, w)`, not clamped, of latents `(b, z, h / 4, w / 4)`."""
    images: torch.Tensor = vae.decoder(vae.post_quant_conv(latents.unsqueeze(2))).squeeze(2)
    return images
