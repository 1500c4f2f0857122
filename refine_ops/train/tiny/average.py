"""Exponential moving average of a model's parameters."""

import torch


class Average:
    """Averages in fp32; early on the average is short, so that the start is forgotten."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Blend the current parameters in."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.values.values()), [value.detach() for value in model.parameters()], 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Put the averages into `model`."""
        for name, value in model.named_parameters():
            value.copy_(self.values[name])
