"""What `speed: fast` changes in the networks, and the attention and compilation it runs them with."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch._dynamo.eval_frame import reset_code  # type: ignore[attr-defined]
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention import SDPBackend, sdpa_kernel

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.load import Networks
from refine_ops.model.network.fp8 import quantize_linears
from refine_ops.model.network.vae import OneFrameVae

logger = logging.getLogger(__name__)

_GRAPHS: Final = 32

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


def compiled(form: Form, settings: ModelSettings, device: torch.device) -> Form:
    """One of a block's forward passes, compiled once for all blocks and all sizes: on a GPU, unless told otherwise.

    Eager, a step is some 4,800 kernels: a small crop costs what launching them costs.

    Sizes are dynamic from the start: automatic dynamism compiles the first size statically, so that an item's bits
    would depend on which size a rank happened to see first.
    """
    if not (device.type == "cuda" if settings.compile is None else settings.compile):
        return form
    return CompiledForm(form)


class CompiledForm:
    """A form that compiles when it is first called, and never lets an item die of its number of graphs."""

    def __init__(self, form: Form, **options: Any) -> None:
        self._form = form
        self._compiled: Form = torch.compile(form, dynamic=True, fullgraph=True, **options)
        self._announced = False

    def __call__(self, *arguments: Any) -> Any:
        if not self._announced:
            self._announced = True
            logger.info(
                "compiling %s: 17 s (fp8: 162 s) on an H100, once per node where TORCHINDUCTOR_CACHE_DIR is kept; "
                "model.compile false runs without",
                self._form.__name__,
            )
        # Batch of one or more, masked text or not, dense or sparse, last block or not: up to 16 graphs, the limit is 8.
        torch._dynamo.config.recompile_limit = max(_GRAPHS, torch._dynamo.config.recompile_limit)
        try:
            return self._compiled(*arguments)
        except FailOnRecompileLimitHit:
            # Graphs are made of code and shapes alone: the same ones come again, and with them the same bits.
            logger.warning("%s has been compiled %d times; its graphs are made anew", self._form.__name__, _GRAPHS)
            reset_code(self._form.__code__)
            return self._compiled(*arguments)


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
