"""One batch through the stages: items of one bucket, already padded to the batch size."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch

from refine_ops.config import ModelSettings
from refine_ops.model import stages
from refine_ops.model.inputs import Prepared, TextInput
from refine_ops.model.load import Networks
from refine_ops.model.memory import Footprint
from refine_ops.model.network import transformer as fast
from refine_ops.model.presets import Preset
from refine_ops.model.prompts import PromptEncoder
from refine_ops.model.sizes import token_grid
from refine_ops.model.speed import best_attention, compiled_block

_SCHEDULES_KEPT: Final = 4
"""Modulations of a schedule take 35 MB at 8 steps (60 blocks, bf16); sizes differ in their schedules."""


class BatchRunner:
    """Runs batches on one device: prompts, condition latents, Euler steps, decoding."""

    def __init__(self, networks: Networks, preset: Preset, settings: ModelSettings, device: torch.device) -> None:
        self._networks = networks
        self._preset = preset
        self._device = device
        self._reference = settings.speed == "reference"
        self._encode = PromptEncoder(networks, device)
        self._block = compiled_block(settings)
        self._encoders_away = False
        self._modulations: OrderedDict[tuple[float, ...], fast.Modulations] = OrderedDict()

    @torch.no_grad()
    def run(
        self, batch: Sequence[Prepared], footprint: Footprint, masked_text: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refine `batch`, whose items share one bucket: patches and their crops' round trips, on the device.

        Both are `float32 (B, h, w, 3)` in [0, 1].

        `masked_text` says that texts may be padded, so the attention takes a mask, in this batch and all of its kind.
        """
        with best_attention(self._device):
            self._networks.vae.use_tiling = footprint.vae_tiling
            if self._encoders_away:
                self._place_encoders(self._device)
            conditional = self._embed([item.prompt for item in batch], batch, batch[0].bucket.text, masked_text)
            unconditional = None
            if batch[0].bucket.negative:
                texts = [item.negative for item in batch if item.negative is not None]
                unconditional = self._embed(texts, batch, batch[0].bucket.negative, masked_text)
            latents = self._condition_latents(batch)
            if footprint.offload:
                self._place_encoders(torch.device("cpu"))
            clean = self._denoise(batch, latents, conditional, unconditional)
            if self._encoders_away:
                self._networks.vae.to(self._device)
            # Two decodes of one batch, not one of two: patches do not depend on it, and neither does peak memory.
            return stages.decode(self._networks.vae, clean), stages.decode(self._networks.vae, latents[0])

    def _embed(
        self, texts: Sequence[TextInput], batch: Sequence[Prepared], length: int, masked: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        embeds, mask = self._encode(texts, [(item.pixel_values, item.grid_thw) for item in batch], length)
        return embeds, mask if masked else None

    def _condition_latents(self, batch: Sequence[Prepared]) -> list[torch.Tensor]:
        """Latents `(B, C, h, w)` of every condition image; images of equal size are encoded together."""
        stacks = [torch.stack(images).to(self._device) for images in zip(*(item.images for item in batch), strict=True)]
        if self._reference:
            return [
                torch.cat([stages.encode_images(self._networks.vae, image) for image in torch.split(stack, 1)])
                for stack in stacks
            ]
        latents: dict[int, torch.Tensor] = {}
        sizes = [stack.shape[2:] for stack in stacks]
        for size in dict.fromkeys(sizes):
            slots = [slot for slot, other in enumerate(sizes) if other == size]
            encoded = stages.encode_images(self._networks.vae, torch.cat([stacks[slot] for slot in slots]))
            latents |= dict(zip(slots, torch.split(encoded, len(batch)), strict=True))
        return [latents[slot] for slot in range(len(stacks))]

    def _denoise(
        self,
        batch: Sequence[Prepared],
        latents: list[torch.Tensor],
        conditional: tuple[torch.Tensor, torch.Tensor | None],
        unconditional: tuple[torch.Tensor, torch.Tensor | None] | None,
    ) -> torch.Tensor:
        """Clean latents `(B, C, h, w)`; where targets are sparse, the other latents are the encoded crop's."""
        known = latents[0]
        height, width = known.shape[2:]
        noise = stages.pack(torch.stack([item.noise for item in batch])).to(self._device, known.dtype)
        targets = None
        if batch[0].targets is not None:
            targets = torch.stack([item.targets for item in batch if item.targets is not None]).to(self._device)
            noise = noise.gather(1, targets[..., None].expand(-1, -1, noise.shape[-1]))
        size = batch[0].bucket.images[0]
        grids = [token_grid(shape, self._networks.latent_px) for shape in (size, *batch[0].bucket.images)]
        shapes = [(1, rows, columns) for rows, columns in grids]
        sigmas = stages.noise_schedule(
            self._networks.scheduler, self._preset.steps, shapes[0][1] * shapes[0][2], self._preset.shift
        )
        condition = torch.cat([stages.pack(latent) for latent in latents], dim=1)
        velocity = self._velocity(conditional, condition, shapes, targets, sigmas)
        if unconditional is not None:
            velocity = _guided(
                velocity, self._velocity(unconditional, condition, shapes, targets, sigmas), self._preset.true_cfg_scale
            )
        clean = stages.denoise(velocity, noise, sigmas)
        if targets is not None:
            index = targets[..., None].expand(-1, -1, clean.shape[-1])
            clean = stages.pack(known).scatter(1, index, clean)
        return stages.unpack(clean, height, width)

    def _velocity(
        self,
        text: tuple[torch.Tensor, torch.Tensor | None],
        condition: torch.Tensor,
        shapes: fast.Shapes,
        targets: torch.Tensor | None,
        sigmas: torch.Tensor,
    ) -> stages.Velocity:
        model, (embeds, mask) = self._networks.transformer, text
        # Rounded to the model's dtype before the division, as the pipeline does.
        timesteps = (sigmas[:-1] * 1000).to(condition.dtype) / 1000
        if self._reference:
            return _diffusers_velocity(model, embeds, mask, condition, shapes, timesteps.to(self._device))
        mods = self._schedule_modulations(timesteps)
        context = fast.context(model, embeds, mask, condition, shapes, targets)
        return lambda step, x: fast.velocity(model, self._block, mods, step, context, x)

    def _schedule_modulations(self, timesteps: torch.Tensor) -> fast.Modulations:
        key = tuple(timesteps.tolist())
        if key not in self._modulations:
            self._modulations[key] = fast.modulations(self._networks.transformer, timesteps.to(self._device))
            if len(self._modulations) > _SCHEDULES_KEPT:
                self._modulations.popitem(last=False)
        self._modulations.move_to_end(key)
        return self._modulations[key]

    def _place_encoders(self, device: torch.device) -> None:
        self._networks.text_encoder.to(device)
        self._networks.vae.to(device)
        self._encoders_away = device != self._device
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _guided(conditional: stages.Velocity, unconditional: stages.Velocity, scale: float) -> stages.Velocity:
    return lambda step, x: stages.guide(conditional(step, x), unconditional(step, x), scale)


def _diffusers_velocity(
    model: object,
    embeds: torch.Tensor,
    mask: torch.Tensor | None,
    condition: torch.Tensor,
    shapes: fast.Shapes,
    timesteps: torch.Tensor,
) -> stages.Velocity:
    """The transformer's own forward pass: what `speed: reference` runs, and what the fast one is tested against."""

    def velocity(step: int, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(  # type: ignore[operator]
            hidden_states=torch.cat([x, condition], dim=1),
            timestep=timesteps[step].expand(len(x)),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[shapes] * len(x),
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]

    return velocity
