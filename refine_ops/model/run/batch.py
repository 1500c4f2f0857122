"""One batch through the stages: items of one bucket, already padded to the batch size."""

from collections.abc import Sequence

import torch

from refine_ops.config import ModelSettings
from refine_ops.model import stages
from refine_ops.model.inputs import PreparedInputs, TextInput
from refine_ops.model.load import Networks
from refine_ops.model.presets import Preset
from refine_ops.model.run.memory import Footprint, Resident
from refine_ops.model.run.prompts import PromptEncoder
from refine_ops.model.run.velocities import velocities_of
from refine_ops.model.sizes import token_grid
from refine_ops.model.speed import best_attention


class BatchRunner:
    """Runs batches on one device: prompts, condition latents, Euler steps, decoding."""

    def __init__(self, networks: Networks, preset: Preset, settings: ModelSettings, device: torch.device) -> None:
        self._networks = networks
        self._preset = preset
        self._device = device
        self._reference = settings.speed == "reference"
        self._vae, self._text_encoder = Resident(networks.vae, device), Resident(networks.text_encoder, device)
        self._encode = PromptEncoder(networks, device, before=self._text_encoder.here)
        self._velocities = velocities_of(networks.transformer, preset, settings, device)

    @torch.no_grad()
    def run(
        self, batch: Sequence[PreparedInputs], footprint: Footprint, masked_text: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refine `batch`, whose items share one bucket: patches and their crops' round trips, on the device.

        Both are `float32 (B, h, w, 3)` in [0, 1].

        `masked_text` says that texts may be padded, so the attention takes a mask, in this batch and all of its kind.
        """
        with best_attention(self._device):
            self._networks.vae.use_tiling = footprint.vae_tiling
            self._vae.here()
            conditional = self._embed([item.prompt for item in batch], batch, batch[0].bucket.text, masked_text)
            unconditional = None
            if batch[0].bucket.negative:
                texts = [item.negative for item in batch if item.negative is not None]
                unconditional = self._embed(texts, batch, batch[0].bucket.negative, masked_text)
            latents = self._condition_latents(batch)
            if footprint.offload:
                self._text_encoder.leave()
                self._vae.leave()
            clean = self._denoise(batch, latents, conditional, unconditional)
            self._vae.here()
            # Two decodes of one batch, not one of two: patches do not depend on it, and neither does peak memory.
            return stages.decode(self._networks.vae, clean), stages.decode(self._networks.vae, latents[0])

    def _embed(
        self, texts: Sequence[TextInput], batch: Sequence[PreparedInputs], length: int, masked: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        embeds, mask = self._encode(texts, [(item.pixel_values, item.grid_thw) for item in batch], length)
        return embeds, mask if masked else None

    def _condition_latents(self, batch: Sequence[PreparedInputs]) -> list[torch.Tensor]:
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
        batch: Sequence[PreparedInputs],
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
        # Rounded to the model's dtype before the division, as the pipeline does.
        timesteps = (sigmas[:-1] * 1000).to(condition.dtype) / 1000
        branches = [conditional] if unconditional is None else [conditional, unconditional]
        velocity, *others = self._velocities(branches, condition, shapes, targets, timesteps)
        if others:
            velocity = _guided(velocity, others[0], self._preset.true_cfg_scale)
        clean = stages.denoise(velocity, noise, sigmas)
        if targets is not None:
            index = targets[..., None].expand(-1, -1, clean.shape[-1])
            clean = stages.pack(known).scatter(1, index, clean)
        return stages.unpack(clean, height, width)


def _guided(conditional: stages.Velocity, unconditional: stages.Velocity, scale: float) -> stages.Velocity:
    return lambda step, x: stages.guide(conditional(step, x), unconditional(step, x), scale)
