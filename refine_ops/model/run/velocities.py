"""How the transformer is asked for velocities over one batch: as diffusers does, faster, or with cached conditions."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from refine_ops.config import ModelSettings
from refine_ops.model.network import cached_conditions as cached
from refine_ops.model.network import transformer as fast
from refine_ops.model.presets import Preset
from refine_ops.model.speed import compiled
from refine_ops.model.stages import Velocity

Text = tuple[torch.Tensor, torch.Tensor | None]
"""Prompt embeddings `(B, L, D)` and the mask of their tokens, `bool (B, L)`; None means all."""
Velocities = Callable[[Sequence[Text], torch.Tensor, fast.Shapes, torch.Tensor | None, torch.Tensor], list[Velocity]]
"""`(texts, condition (B, N, 4C), shapes, targets (B, T) or None, timesteps (S,)) -> a Velocity per text`.

Texts are the branches of guidance: they share pictures and times.
"""

_SCHEDULES_KEPT: Final = 4
"""Modulations of a schedule take 35 MB at 8 steps (60 blocks, bf16); sizes differ in their schedules."""


def velocities_of(model: Any, preset: Preset, settings: ModelSettings, device: torch.device) -> Velocities:
    """The way that settings and preset ask for."""
    if settings.speed == "reference":
        return partial(_by_diffusers, model, device)
    modulations = _Modulations(model, device, text_at_zero=preset.conditions == "cached+text")
    if preset.conditions == "joint":
        return partial(_joint, model, compiled(fast.block_forward, settings, device), modulations)
    forms = {form: compiled(form, settings, device) for form in cached.FORMS}
    run = lambda form, *arguments: forms[form](*arguments)  # noqa: E731
    return partial(_cached, model, run, modulations)


class _Modulations:
    """Modulations by schedule; equal for every item, and a third of the weights."""

    def __init__(self, model: Any, device: torch.device, *, text_at_zero: bool) -> None:
        self._model, self._device, self._text_at_zero = model, device, text_at_zero
        self._kept: OrderedDict[tuple[float, ...], fast.Modulations] = OrderedDict()

    def __call__(self, timesteps: torch.Tensor) -> fast.Modulations:
        key = tuple(timesteps.tolist())
        if key not in self._kept:
            self._kept[key] = fast.modulations(self._model, timesteps.to(self._device), text_at_zero=self._text_at_zero)
            if len(self._kept) > _SCHEDULES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _joint(
    model: Any,
    block: fast.BlockForward,
    modulations: _Modulations,
    texts: Sequence[Text],
    condition: torch.Tensor,
    shapes: fast.Shapes,
    targets: torch.Tensor | None,
    timesteps: torch.Tensor,
) -> list[Velocity]:
    mods = modulations(timesteps)
    contexts = [fast.context(model, *text, condition, shapes, targets) for text in texts]

    def velocity(ctx: fast.Context, step: int, x: torch.Tensor) -> torch.Tensor:
        return fast.velocity(model, block, mods, step, ctx, x)

    return [partial(velocity, ctx) for ctx in contexts]


def _cached(
    model: Any,
    run: cached.RunBlock,
    modulations: _Modulations,
    texts: Sequence[Text],
    condition: torch.Tensor,
    shapes: fast.Shapes,
    targets: torch.Tensor | None,
    timesteps: torch.Tensor,
) -> list[Velocity]:
    mods = modulations(timesteps)
    contexts = [fast.context(model, *text, condition, shapes, targets) for text in texts]
    # Conditions see no text: one pass over them serves both branches of guidance.
    known = cached.prefill_conditions(model, run, mods, contexts[0])

    def velocity(ctx: fast.Context, prefix: cached.Prefix, step: int, x: torch.Tensor) -> torch.Tensor:
        return cached.velocity(model, run, mods, step, ctx, prefix, x)

    def prefix_of(ctx: fast.Context) -> cached.Prefix:
        return cached.Prefix(known, cached.prefill_text(model, run, mods, ctx, known) if mods.text_at_zero else [])

    return [partial(velocity, ctx, prefix_of(ctx)) for ctx in contexts]


def _by_diffusers(
    model: Any,
    device: torch.device,
    texts: Sequence[Text],
    condition: torch.Tensor,
    shapes: fast.Shapes,
    _targets: torch.Tensor | None,
    timesteps: torch.Tensor,
) -> list[Velocity]:
    """The transformer's own forward pass: what `speed: reference` runs, and what the fast one is tested against."""
    times = timesteps.to(device)

    def velocity(embeds: torch.Tensor, mask: torch.Tensor | None, step: int, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(
            hidden_states=torch.cat([x, condition], dim=1),
            timestep=times[step].expand(len(x)),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[shapes] * len(x),
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]

    return [partial(velocity, *text) for text in texts]
