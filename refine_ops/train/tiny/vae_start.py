"""Where the VAE's training starts: a patch transform instead of noise.

The encoder starts as principal components of 4 x 4 px blocks, the decoder as their smooth inverse, every residual block
as the identity. Three facts make the stock layers linear: `silu(x) - silu(-x) = x`; a channel much larger than the
others keeps an RMS norm constant; a residual block whose second convolution is zero passes its input on. So training
begins at a usable picture and only has to sharpen it.
"""

import torch
from diffusers import AutoencoderKLQwenImage

from refine_ops.model.tiny.shapes import LATENT_CHANNELS

ANCHOR = 30.0
"""Value of the constant channel, in standard deviations of a latent."""


def principal_blocks(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal components of 4 x 4 px blocks of `(n, 3, h, w)` images in [-1, 1].

    Returns:
        Basis `(16, 48)` with rows ordered by variance, columns `(c, y, x)`; standard deviations `(16,)`. The mean is
        not subtracted (grey is 0 already).
    """
    blocks = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48).double()
    values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    order = values.argsort(descending=True)[:LATENT_CHANNELS]
    return vectors[:, order].T.float(), values[order].clamp(min=0).sqrt().float()


def _pass_on(vae: AutoencoderKLQwenImage) -> None:
    """Make every residual and attention block the identity (or the inclusion of its channels in more)."""
    for name, parameter in vae.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias", "proj.weight", "proj.bias", "conv_shortcut.bias")):
            parameter.zero_()
        elif name.endswith("conv_shortcut.weight"):
            parameter.zero_()
            n = min(parameter.shape[:2])
            parameter[range(n), range(n), 0, 0, 0] = 1.0
        elif parameter.ndim == 5 and parameter.shape[2] == 3:
            parameter[:, :, :2] = 0.0


def _start_encoder(vae: AutoencoderKLQwenImage, basis: torch.Tensor, std: torch.Tensor) -> None:
    encoder, n = vae.encoder, LATENT_CHANNELS
    rgb = encoder.conv_in.weight
    rgb[:3] = 0.0
    rgb[range(3), range(3), 2, 1, 1] = 1.0
    encoder.conv_in.bias.zero_()
    halve, quarter = (block.resample[1] for block in encoder.down_blocks if hasattr(block, "resample"))
    for convolution, kept in ((halve, 12), (quarter, 2 * n)):
        convolution.weight[:kept] = 0.0
        convolution.bias.zero_()
    for y in range(2):
        for x in range(2):
            for c in range(3):
                halve.weight[4 * c + 2 * y + x, c, y, x] = 1.0
    patches = (basis / std[:, None]).reshape(n, 3, 2, 2, 2, 2)  # (z, c, Y, y, X, x): block row 2 Y + y
    for y in range(2):
        for x in range(2):
            taps = patches[:, :, y, :, x, :].reshape(n, 12)
            quarter.weight[:n, :12, y, x] = taps
            quarter.weight[n : 2 * n, :12, y, x] = -taps
    quarter.weight[-1] = 0.0
    quarter.bias[-1] = ANCHOR
    quarter.weight[2 * n : -1] *= 0.3
    out = encoder.conv_out
    out.weight.zero_()
    out.bias.zero_()
    gain = ANCHOR / encoder.norm_out.scale
    out.weight[range(n), range(n), 2, 1, 1] = gain
    out.weight[range(n), range(n, 2 * n), 2, 1, 1] = -gain
    vae.quant_conv.weight.zero_()
    vae.quant_conv.bias.zero_()
    vae.quant_conv.weight[range(n), range(n), 0, 0, 0] = 1.0
    vae.quant_conv.bias[n:] = -12.0  # log variance: the latents are a function of the image


def _start_decoder(vae: AutoencoderKLQwenImage, basis: torch.Tensor, std: torch.Tensor) -> None:
    decoder, n = vae.decoder, LATENT_CHANNELS
    pixels = (basis * std[:, None]).T.reshape(3, 2, 2, 2, 2, n)
    halves = pixels.permute(1, 3, 0, 2, 4, 5).reshape(4, 12, n)  # (Y X, (c, y, x), z)
    vae.post_quant_conv.weight.zero_()
    vae.post_quant_conv.bias.zero_()
    vae.post_quant_conv.weight[range(n), range(n), 0, 0, 0] = 1.0
    decoder.conv_in.weight[:48] = 0.0
    decoder.conv_in.bias[:48] = 0.0
    decoder.conv_in.weight[:48, :, 2, 1, 1] = halves.reshape(48, n)
    first, second = (block.upsamplers[0].resample[1] for block in decoder.up_blocks if block.upsamplers is not None)
    for convolution, values in ((first, 12), (second, 3)):
        kept = 2 * values if values == 3 else values
        convolution.weight[:kept] = 0.0
        convolution.bias.zero_()
        for value in range(values):
            sources = [12 * place + value if values == 12 else 4 * value + place for place in range(4)]
            _interpolate(convolution.weight, value, sources)
            if values == 3:
                convolution.weight[3 + value] = -convolution.weight[value]
    second.weight[-1] = 0.0
    second.bias[-1] = ANCHOR / 10
    second.weight[6:-1] *= 0.3
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    gain = (ANCHOR / 10) / decoder.norm_out.scale
    decoder.conv_out.weight[range(3), range(3), 2, 1, 1] = gain
    decoder.conv_out.weight[range(3), range(3, 6), 2, 1, 1] = -gain


def _interpolate(weight: torch.Tensor, out: int, sources: list[int]) -> None:
    """Write a smooth placement of a block's four sub-values (channels `sources`) into one output channel.

    After nearest upsampling a 3 x 3 convolution cannot tell which of four positions it is at, except by which
    neighbours differ; the nearest it gets to placing sub-value (y, x) is the average, sharpened by its neighbours.
    """
    for y in range(2):
        for x in range(2):
            source = sources[2 * y + x]
            weight[out, source, 1, 1] = 0.25
            weight[out, source, 1, 0 if x else 2] += 0.12
            weight[out, source, 1, 2 if x else 0] -= 0.12
            weight[out, source, 0 if y else 2, 1] += 0.12
            weight[out, source, 2 if y else 0, 1] -= 0.12


@torch.no_grad()
def start(vae: AutoencoderKLQwenImage, images: torch.Tensor) -> None:
    """Write the starting weights, fitted to `images` `(n, 3, h, w)` in [-1, 1] (sides multiples of 4), into `vae`."""
    basis, std = principal_blocks(images)
    _pass_on(vae)
    _start_encoder(vae, basis, std)
    _start_decoder(vae, basis, std)
