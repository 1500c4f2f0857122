"""Where the transformer's training starts: at "change nothing", instead of at noise.

The velocity of rectified flow is `v = (x_t - x_0) / sigma`. The starting weights compute it with `x_0` = the crop's
own latents: one attention head fetches the crop's token at the same place, the output layer takes the difference, and
the output norm's time modulation divides by sigma. So sampling first returns the input, and training only has to learn
what to change. Attention by place costs no learning either: with constant queries and keys RoPE alone makes
`q . k = sum_i A_i cos(theta_i (p_q - p_k) + phi_i)`, a peak at any chosen offset of frame, row and column.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel

from refine_ops.model.tiny.shapes import HEAD_CHANNELS, ROPE_CHANNELS, TOKEN_CHANNELS, WIDTH

OWN = slice(0, TOKEN_CHANNELS)
"""Lanes of the residual stream that hold the token's own latents."""
ESTIMATE = slice(TOKEN_CHANNELS, 2 * TOKEN_CHANNELS)
"""Lanes of the current estimate of `x_0`."""
ANCHORS = 8
ANCHOR = 6.0
"""The last lanes are constants +-6: they keep the layer norms' divisor nearly constant, hence the layers linear."""
LATENT_GAIN = 0.5
FEATURES = slice(2 * TOKEN_CHANNELS, WIDTH - ANCHORS)
"""Lanes that start with random mixtures of the token's latents."""
SPREAD = 2.5
"""The anchors leave the normed lanes small (0.4); first layers and values make up for it, or learning is slow."""
PEAK = 80.0
"""Sum of the amplitudes `A_i`: the logit of a perfect match."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where a head looks at the start.

    `frame` is the offset in images (target 0, crop 1, reference or mask 2, mask 3; None: any). `sharpness` 1 means
    one token, 0.1 a few tokens around it, 0 anywhere. `content` is the share of the query's energy that depends on
    the token.
    """

    frame: int | None
    sharpness: float = 1.0
    content: float = 0.0
    row: int = 0
    column: int = 0


LOOKS = (
    (Look(1), Look(2), Look(3), Look(1, 0.12, 0.1)),
    (Look(0, 0.12, 0.1), Look(2, 0.06, 0.2), Look(1, 0.4, 0.0), Look(None, 0.0, 0.35)),
    (Look(1), Look(2, 0.06, 0.2), Look(0, 0.12, 0.1), Look(None, 0.0, 0.35)),
    (Look(1), Look(2), Look(0, 0.2, 0.1), Look(None, 0.0, 0.35)),
)
"""Heads by layer."""


def _amplitudes(look: Look) -> tuple[torch.Tensor, torch.Tensor]:
    """Amplitude `A_i` and phase `phi_i` of each channel pair, in RoPE's order of frame, row and column."""
    amplitude, phase = [], []
    for channels, offset in zip(ROPE_CHANNELS, (look.frame or 0, look.row, look.column), strict=True):
        # RoPE turns pair i by theta_i per step; the phase turns the peak of the match to the wanted offset.
        frequencies = 10_000.0 ** (-torch.arange(0, channels, 2) / channels)
        wanted = torch.zeros(channels // 2)
        if channels == ROPE_CHANNELS[0]:
            # Frames are few and whole numbers apart: the fastest pair alone tells them apart.
            wanted[0] = 12.0 if look.frame is not None else 0.0
        else:
            # Fast pairs make the peak narrow, slow ones keep it the only one within the image.
            wanted[:4] = torch.tensor([9.0, 4.0, 5.0, 2.0]) * look.sharpness
        amplitude.append(wanted)
        phase.append(frequencies * offset)
    joined = torch.cat(amplitude)
    joined[-2:] += (PEAK - joined.sum()) / 2  # the slowest pairs hardly turn: energy that prefers no place
    return joined, torch.cat(phase)


def _aim(attention: Any, head: int, look: Look, generator: torch.Generator) -> None:
    """Write the queries and keys of one head."""
    amplitude, phase = _amplitudes(look)
    magnitude = (amplitude / amplitude.sum()).sqrt() * math.sqrt(HEAD_CHANNELS)
    channels = slice(head * HEAD_CHANNELS, (head + 1) * HEAD_CHANNELS)
    query = torch.stack([magnitude * phase.cos(), magnitude * phase.sin()], -1).flatten()
    key = torch.stack([magnitude, torch.zeros_like(magnitude)], -1).flatten()
    # What the normed latents bring into a query, so that `content` is a share of its energy and not of a weight.
    energy = WIDTH * 2 * LATENT_GAIN**2 * TOKEN_CHANNELS / (ANCHORS * ANCHOR**2 + 2 * LATENT_GAIN**2 * TOKEN_CHANNELS)
    spread = math.sqrt(look.content / max(1.0 - look.content, 1e-6) / energy)
    for linear, bias in ((attention.to_q, query), (attention.to_k, key)):
        linear.weight[channels] = torch.randn(HEAD_CHANNELS, WIDTH, generator=generator) * spread
        linear.weight[channels, -ANCHORS:] = 0.0  # the anchors are constants: what they added would be a second bias
        linear.bias[channels] = bias


def _divisor(latents: int) -> float:
    """Expected divisor of a layer norm while `latents` groups of lanes hold latents of unit variance."""
    lanes = latents * TOKEN_CHANNELS + FEATURES.stop - FEATURES.start
    return math.sqrt((ANCHORS * ANCHOR**2 + lanes * LATENT_GAIN**2) / WIDTH)


def _divide_by_sigma(model: QwenImageTransformer2DModel) -> None:
    """Fit the output norm's time modulation: `1 + scale(sigma) = 1 / sigma` for sigma from 0.15 to 1."""
    sigma = torch.linspace(0.15, 1.0, 400)
    features = torch.nn.functional.silu(model.time_text_embed(sigma, sigma)).double()
    features = torch.cat([features, torch.ones(len(sigma), 1, dtype=torch.float64)], 1)
    # A ridge, since neighbouring sigmas have nearly the same features and the weights would otherwise be huge.
    ridge = 1e-6 * len(sigma) * torch.eye(features.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(features.T @ features + ridge, features.T @ (1 / sigma.double() - 1))
    linear = model.norm_out.linear
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[:WIDTH] = solution[:-1].float()
    linear.bias[:WIDTH] = solution[-1].float()


@torch.no_grad()
def start(model: QwenImageTransformer2DModel, seed: int = 0) -> None:
    """Write the starting weights into `model` (of `shapes.new_transformer`)."""
    generator = torch.Generator().manual_seed(seed)
    # Latents enter at half their size: beside the anchors they must not move the layer norms' divisor much.
    model.img_in.weight.normal_(0.0, LATENT_GAIN / math.sqrt(TOKEN_CHANNELS), generator=generator)
    model.img_in.weight[: 2 * TOKEN_CHANNELS] = 0.0
    model.img_in.weight[OWN] = LATENT_GAIN * torch.eye(TOKEN_CHANNELS)
    model.img_in.bias.zero_()
    # In pairs of opposite sign, so that the layer norm's mean stays near zero.
    model.img_in.bias[-ANCHORS:] = ANCHOR * torch.tensor([1.0, -1.0]).repeat(ANCHORS // 2)
    model.img_in.weight[-ANCHORS:] = 0.0
    for block, looks in zip(model.transformer_blocks, LOOKS, strict=True):
        attention = block.attn
        # The norms of queries and keys take away their length: the logit's scale must stand in their weights.
        attention.norm_q.weight.fill_(math.sqrt(PEAK / math.sqrt(HEAD_CHANNELS)))
        attention.norm_k.weight.fill_(math.sqrt(PEAK / math.sqrt(HEAD_CHANNELS)))
        for head, look in enumerate(looks):
            _aim(attention, head, look, generator)
        for reader in (attention.to_v, block.img_mlp.net[0].proj):
            reader.weight *= SPREAD
            reader.weight[:, -ANCHORS:] = 0.0
        for closed in (attention.to_out[0], attention.to_add_out, block.img_mlp.net[2], block.txt_mlp.net[2]):
            closed.weight.zero_()
            closed.bias.zero_()
        # Constant over time at first: the division by sigma is the output norm's alone.
        for modulation in (block.img_mod[1], block.txt_mod[1]):
            modulation.weight.zero_()
            modulation.bias.zero_()
            modulation.bias[2 * WIDTH : 3 * WIDTH] = 1.0  # gates open: the closed layers above keep the block silent
            modulation.bias[5 * WIDTH :] = 1.0
    first = model.transformer_blocks[0].attn
    # Head 0 looks at the crop's token of the same place (LOOKS[0][0]): it fetches that token's latents as x_0.
    first.to_v.weight[:HEAD_CHANNELS] = 0.0
    first.to_v.weight[:HEAD_CHANNELS, OWN] = torch.eye(TOKEN_CHANNELS)
    first.to_v.bias[:HEAD_CHANNELS] = 0.0
    first.to_out[0].weight[ESTIMATE, :HEAD_CHANNELS] = _divisor(1) * torch.eye(TOKEN_CHANNELS)
    _divide_by_sigma(model)
    model.proj_out.weight.zero_()
    model.proj_out.bias.zero_()
    # v = (x_t - x_0) / sigma; `_divisor(2)`: both groups of lanes hold latents by now.
    model.proj_out.weight[:, OWN] = _divisor(2) / LATENT_GAIN * torch.eye(TOKEN_CHANNELS)
    model.proj_out.weight[:, ESTIMATE] = -_divisor(2) / LATENT_GAIN * torch.eye(TOKEN_CHANNELS)
