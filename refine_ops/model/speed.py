"""What `speed: fast` changes in the networks, and the attention and compilation it runs them with."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.load import Networks
from refine_ops.model.network.fp8 import quantize_linears
from refine_ops.model.network.vae import OneFrameVae

Form = Callable[..., Any]
"""A forward pass of one transformer block."""


def accelerate(networks: Networks, settings: ModelSettings, device: torch.device) -> Networks:
    """The networks for `speed: fast`: a one-frame VAE and, if asked for, fp8 linears. LoRAs must be fused already.

    Raises:
        JobError: fp8 on a device without it.
    """
    networks = replace(networks, vae=OneFrameVae.of(networks.vae))
    if settings.fp8:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
            raise JobError(
                f"fp8 needs a CUDA device of compute capability 8.9 or more, this is {device}; set fp8 false"
            )
        if networks.transformer.dtype != torch.bfloat16:
            raise JobError(f"fp8 linears give bfloat16, the model is {networks.transformer.dtype}; set dtype bfloat16")
        quantize_linears(networks.transformer)
    return networks


def compiled(form: Form, settings: ModelSettings) -> Form:
    """One of a block's forward passes, compiled once for all blocks and all sizes if `settings.compile`.

    Sizes are dynamic from the start: automatic dynamism compiles the first size statically, so that an item's bits
    would depend on which size a rank happened to see first.
    """
    if not settings.compile:
        return form
    # Batch of one or more, masked text or not, dense or sparse, last block or not: up to 16 graphs, the limit is 8.
    torch._dynamo.config.recompile_limit = 32
    made: Form = torch.compile(form, dynamic=True, fullgraph=True)
    return made


@contextlib.contextmanager
def best_attention(device: torch.device) -> Iterator[None]:
    """Prefer cuDNN's attention (629 TFLOP/s at 16k tokens on an H100), then flash, then what takes a mask."""
    if device.type != "cuda":
        yield
        return
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield
