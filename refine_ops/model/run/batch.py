"""One batch through the stages: items of one bucket, already padded to the batch size."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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

_REMEMBERED: Final = 32
"""Items whose encoded images are kept, 13 MB for a crop of 1 MP, most of it the round trip: candidates follow each
other soon."""


@dataclass(slots=True)
class _Encoded:
    """An item's condition latents `(C, h, w)`, crop first, and the crop's round trip `(h, w, 3)` once it was made."""

    latents: list[torch.Tensor]
    roundtrip: torch.Tensor | None = None


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
        self._encoded: OrderedDict[tuple[str, int, bool], _Encoded] = OrderedDict()

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
            encoded = self._encodings(batch, footprint)
            latents = [torch.stack(images) for images in zip(*(item.latents for item in encoded), strict=True)]
            if footprint.offload:
                self._text_encoder.leave()
                self._vae.leave()
            clean = self._denoise(batch, latents, conditional, unconditional)
            self._vae.here()
            # Two decodes of one batch, not one of two: patches do not depend on it, and neither does peak memory.
            patches = stages.decode(self._networks.vae, clean)
            if any(item.roundtrip is None for item in encoded):
                for item, roundtrip in zip(encoded, stages.decode(self._networks.vae, latents[0]), strict=True):
                    item.roundtrip = roundtrip
            return patches, torch.stack([item.roundtrip for item in encoded if item.roundtrip is not None])

    def forget(self) -> None:
        """Let go of what is remembered: where memory runs out it is the first that can be done without."""
        self._encoded.clear()

    def _encodings(self, batch: Sequence[PreparedInputs], footprint: Footprint) -> list[_Encoded]:
        """The encoded images of every item: those that are remembered, where all of the batch's are.

        Candidates of a region differ in their noise alone. What the batch's size and the tiling may round otherwise is
        part of the key, and nothing is encoded in a smaller batch: patches are the same bytes with and without.
        """
        keys = [(item.images_key, len(batch), footprint.vae_tiling) for item in batch]
        if not all(key in self._encoded for key in keys):
            latents = self._condition_latents(batch)
            made = [_Encoded(list(images)) for images in zip(*latents, strict=True)]
            self._encoded |= zip(keys, made, strict=True)
        found = [self._encoded[key] for key in keys]
        for key in keys:
            self._encoded.move_to_end(key)
        while len(self._encoded) > _REMEMBERED:
            self._encoded.popitem(last=False)
        return found

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
