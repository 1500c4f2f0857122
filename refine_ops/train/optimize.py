"""AdamW, its rate, and the moving average of the trained weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from refine_ops.errors import JobError
from refine_ops.train.config import OptimizerSettings

Parameters = Mapping[str, torch.nn.Parameter]


def make_optimizer(parameters: Parameters, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over `parameters`, fused on a GPU, or bitsandbytes' 8-bit AdamW.

    Raises:
        JobError: 8 bits are asked for and bitsandbytes is not installed.
    """
    values = list(parameters.values())
    options = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.name == "adamw":
        return torch.optim.AdamW(values, **options, fused=values[0].device.type == "cuda")  # type: ignore[arg-type]
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise JobError("optimizer.name 'adamw8bit' needs bitsandbytes: pip install bitsandbytes") from error
    optimizer: torch.optim.Optimizer = AdamW8bit(values, **options)
    return optimizer


def learning_rate(settings: OptimizerSettings, step: int) -> float:
    """The rate of optimizer step `step` (from 0): constant after a linear warm-up."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    return settings.learning_rate


class MovingAverage:
    """Exponential average of the trained weights, in fp32, with `decay` reached gradually: m / (m + 9).

    m is the number of the step and `head_start` more. Without a head start the first step's weights count for 0.9.
    """

    def __init__(self, parameters: Parameters, decay: float, *, head_start: int = 1) -> None:
        self._parameters, self._decay, self._head_start = parameters, decay, head_start
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step` (from 1)."""
        counted = step + self._head_start
        decay = min(self._decay, counted / (counted + 9))
        for name, parameter in self._parameters.items():
            self.values[name].lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model runs with the average inside the block."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        load_parameters(self._parameters, self.values)
        try:
            yield
        finally:
            load_parameters(self._parameters, kept)


@torch.no_grad()
def load_parameters(parameters: Parameters, values: Mapping[str, torch.Tensor]) -> None:
    """Copy `values` into `parameters`, sharded as they are."""
    for name, parameter in parameters.items():
        parameter.copy_(placed_like(values[name], parameter.detach()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one (a collective then), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` on `like`'s device, sharded as `like` is."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)
